"""Every format against golden lines: ours, and those of Axolotl of October 2023 (tests/golden/make.py)."""

import json
from pathlib import Path

import pytest

from axolotl_core import lookup
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.conversation import templates
from axolotl_core.prompts.resolve import FORMATS, format_of
from axolotl_core.tokens.encode import RowEncoder
from axolotl_core.tokens.tokenizer import Tokenizer, read_tokenizer
from tests.golden.make import OURS, ROWS, SEED, dumped, ours
from tests.golden.rules import wanted

LINES = [json.loads(line) for line in SEED.read_text(encoding="utf-8").splitlines()]


def test_every_format_makes_the_text_it_made_when_it_was_last_looked_at():
    made, golden = dumped(ours()).splitlines(), OURS.read_text(encoding="utf-8").splitlines()
    assert made == golden, "run `python -m tests.golden.make` and read the diff"


def test_the_golden_lines_cover_every_format_and_conversation():
    types = {kind.partition(":")[0].partition(".")[0] for kind in ROWS} | {"sharegpt", "user_defined", "pretokenized", "chat_template"}
    assert types == set(lookup.names(FORMATS))
    assert len(templates()) == 49


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return read_tokenizer(smollm2)


@pytest.mark.parametrize("line", LINES, ids=[f"{i}-{line['tag']}" for i, line in enumerate(LINES)])
def test_token_for_token_as_axolotl_but_where_a_rule_says_otherwise(line: dict, tokenizer: Tokenizer):
    settings = {key: value for key, value in line["config"].items() if key != "train_on_inputs"}
    encoder = RowEncoder(
        format_of(Dataset.model_validate({"path": "x", **settings})), tokenizer, train_on_inputs=line["config"]["train_on_inputs"]
    )
    made = encoder.encode([json.dumps(line["row"])])
    ids, labels = made.ids.tolist(), made.labels.tolist()
    due = wanted({**line, "bos": ""}, "<|im_end|>", tuple(tokenizer.control))
    if due is None:
        assert ids == []
        return
    if due.exact:
        assert (ids, labels) == (line["input_ids"], line["labels"])
    assert tokenizer.decode(ids) == due.text
    trained = tokenizer.decode([label for label in labels if label != IGNORE_INDEX])
    assert trained.split() == due.trained.split()  # blanks may be one token with those of the template, which is not trained
