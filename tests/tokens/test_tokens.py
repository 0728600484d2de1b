"""ids and labels: set together, the same bytes however many processes, nothing dropped in silence."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.table import parts
from axolotl_core.errors import DataError, ModelError
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.resolve import format_of
from axolotl_core.sources.place import resolve
from axolotl_core.sources.raw import SourceRow, write_raw
from axolotl_core.tokens.encode import RowEncoder
from axolotl_core.tokens.encoded import Encoded
from axolotl_core.tokens.make import gguf_facts, make_tokenizer
from axolotl_core.tokens.rowcache import RowCache
from axolotl_core.tokens.samples import Samples
from axolotl_core.tokens.store import Encoder, write_tokens
from axolotl_core.tokens.tokenizer import Tokenizer, read_tokenizer
from tests.conftest import SMOLLM2

TALK = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Paris"}]}


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return read_tokenizer(tokenizer_folder)


def encode(row: dict, tokenizer: Tokenizer, train_on_inputs: bool = False, **data) -> Encoded:
    """A dataset of one row."""
    settings = Dataset(path="x", **{"type": "alpaca", **data})
    encoder = RowEncoder(format_of(settings), tokenizer, train_on_inputs=train_on_inputs, rename=settings.rename, join=settings.join)
    return encoder.encode([json.dumps(row)])


def encoded(row: dict, tokenizer: Tokenizer, train_on_inputs: bool = False, **data) -> tuple[list[int], list[int]]:
    made = encode(row, tokenizer, train_on_inputs, **data)
    assert made.reasons == [None]
    return made.ids.tolist(), made.labels.tolist()


def texts(row: dict, tokenizer: Tokenizer, **data) -> tuple[str, str]:
    """The whole text, and the trained part of it."""
    ids, labels = encoded(row, tokenizer, **data)
    return tokenizer.decode(ids), tokenizer.decode([label for label in labels if label != IGNORE_INDEX])


def test_the_trained_part_is_the_answer_and_its_end(tokenizer: Tokenizer):
    whole, trained = texts({"instruction": "Add.", "output": "Paris."}, tokenizer)
    assert trained == "Paris.<|im_end|>"
    assert whole.endswith("### Response:\nParis.<|im_end|>")


def test_labels_are_the_ids_where_they_are_trained(tokenizer: Tokenizer):
    ids, labels = encoded(TALK, tokenizer, type="sharegpt", conversation="chatml")
    assert len(ids) == len(labels)
    assert all(label in (id, IGNORE_INDEX) for id, label in zip(ids, labels, strict=True))


def test_chatml_encodes_like_the_tokenizers_own_template(tokenizer_folder: Path, tokenizer: Tokenizer):
    from transformers import AutoTokenizer

    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Paris"},
    ]
    wanted = AutoTokenizer.from_pretrained(tokenizer_folder).apply_chat_template(messages, tokenize=True, return_dict=False)
    assert encoded(TALK, tokenizer, type="sharegpt", conversation="chatml")[0] == wanted


def test_an_empty_answer_is_dropped_though_inputs_are_trained(tokenizer: Tokenizer):
    assert encode({"instruction": "a", "output": ""}, tokenizer, train_on_inputs=True).reasons == ["no trained token"]


def test_train_on_inputs_trains_all(tokenizer: Tokenizer):
    ids, labels = encoded({"instruction": "Add.", "output": "2"}, tokenizer, train_on_inputs=True)
    assert ids == labels


def test_end_of_sequence_is_not_doubled_where_the_data_carries_it(tokenizer: Tokenizer):
    row = {"instruction": "Add.", "output": "2<|im_end|>"}
    assert encoded(row, tokenizer, allow_special_tokens=True)[0][-2:] == [*tokenizer.backend.encode("2").ids, 2]
    assert encoded({"text": "a<|im_end|>"}, tokenizer, type="completion")[0].count(2) == 1


def test_bos_stands_once_at_the_very_start(tokenizer: Tokenizer):
    ids, labels = encoded(TALK, dataclasses.replace(tokenizer, bos=[1]), type="sharegpt")
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert labels[0] == IGNORE_INDEX


def make_raw(folder: Path, rows: list[dict]) -> list[str]:
    return write_raw(folder, (SourceRow("data.jsonl", i, row) for i, row in enumerate(rows, 1)), "data.jsonl")["sources"]


def written(tmp_path: Path, rows: list[dict], tokenizer_folder: Path, processes: int = 1, **data) -> dict:
    sources = make_raw(tmp_path / "raw", rows)
    out = tmp_path / "tokens"
    out.mkdir()
    data = Dataset(path="data.jsonl", **{"type": "alpaca", **data})
    return write_tokens(
        out, Encoder(tmp_path / "raw", sources, tokenizer_folder, data, False), processes, RowCache(tmp_path / "rows", {})
    ).facts


def test_bytes_are_equal_for_one_and_four_processes_and_any_folder(tmp_path: Path, tokenizer_folder: Path):
    rows = [{"instruction": f"Add {i}", "output": f"{i}" * (i % 7)} for i in range(6500)]
    digests = set()
    for name, processes in (("here", 1), ("there", 4)):
        (tmp_path / name).mkdir()
        facts = written(tmp_path / name, rows, tokenizer_folder, processes)
        assert facts["dropped"] == {"no trained token": 929}
        digests.add(
            tuple(digest_file(part) for part in (*parts(tmp_path / name / "tokens"), tmp_path / name / "tokens" / "rejected.jsonl"))
        )
    assert len(digests) == 1


def test_a_row_without_a_trained_token_is_dropped_counted_and_kept_to_be_seen(tmp_path: Path, tokenizer_folder: Path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": ""}]
    facts = written(tmp_path, rows, tokenizer_folder)
    assert (facts["rows"], facts["dropped"]) == (1, {"no trained token": 1})
    rejected = json.loads((tmp_path / "tokens" / "rejected.jsonl").read_text())
    assert rejected == {"reason": "no trained token", "file": "data.jsonl", "line": 2, "row": rows[1]}


def test_a_data_set_without_a_trained_token_is_an_error(tmp_path: Path, tokenizer_folder: Path):
    with pytest.raises(DataError, match="data.jsonl: the dataset has no target token, no row is left .2 dropped: no trained token."):
        written(tmp_path, [{"instruction": "a", "output": ""}] * 2, tokenizer_folder)


def test_bad_rows_are_named_by_file_and_line_ten_at_most(tmp_path: Path, tokenizer_folder: Path):
    with pytest.raises(DataError) as caught:
        written(tmp_path, [{"instruction": "a", "output": "b"}, *[{"question": "a"}] * 12], tokenizer_folder)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("data.jsonl:2: format alpaca wants the field 'instruction', the row has question")
    assert len(lines) == 2
    assert "(the same: data.jsonl:3, data.jsonl:4," in lines[0]
    assert lines[-1] == "(the first ten are shown; `on_bad_row: skip` leaves malformed rows out)"


def test_bad_rows_can_be_left_out_and_are_written_with_the_reason(tmp_path: Path, tokenizer_folder: Path):
    rows = [{"instruction": "a", "output": "b"}, {"question": "a"}, {"instruction": "a"}]
    facts = written(tmp_path, rows, tokenizer_folder, on_bad_row="skip")
    assert (facts["rows"], facts["dropped"]) == (1, {"malformed": 2})
    rejected = [json.loads(line) for line in (tmp_path / "tokens" / "rejected.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejected] == [2, 3]
    assert rejected[1]["reason"].startswith("format alpaca wants the field 'output', the row has instruction")


def test_samples_are_read_back_as_written(tmp_path: Path, tokenizer_folder: Path, tokenizer: Tokenizer):
    rows = [{"instruction": f"Add {i}", "output": "x" * (i % 5 + 1)} for i in range(2300)]
    facts = written(tmp_path, rows, tokenizer_folder)
    samples = Samples(tmp_path / "tokens")
    assert len(samples) == facts["rows"] == 2300
    assert samples.lengths.sum() == facts["tokens"]
    for i in (0, 999, 1000, 2299):
        ids, labels = samples.sample(i)
        assert (ids.tolist(), labels.tolist()) == encoded(rows[i], tokenizer)
    every = samples.trained(np.arange(2300), np.zeros(2300, int), samples.lengths)
    assert every.sum() == facts["trained_tokens"]
    assert samples.trained(np.array([1500]), np.array([0]), np.array([3])).tolist() == [0]


def test_a_tokenizer_gets_the_tokens_of_the_yaml(tmp_path: Path, tokenizer_folder: Path):
    tmp_path.joinpath("out").mkdir()
    size, new = make_tokenizer(
        resolve(str(tokenizer_folder), tmp_path),
        tmp_path / "out",
        revision=None,
        token=False,
        special_tokens={"bos_token": "<|im_start|>", "pad_token": "<pad>"},
        tokens=["<tool>"],
    )
    made = read_tokenizer(tmp_path / "out")
    assert size == made.size == read_tokenizer(tokenizer_folder).size + 2
    assert new == ["<tool>"], "padding is nothing that a model learns"
    assert made.backend.encode("a<tool>b", add_special_tokens=False).tokens == ["a", "<tool>", "b"]
    assert made.pad_id == made.backend.token_to_id("<pad>")


def test_a_tokenizer_has_the_same_bytes_each_time(tmp_path: Path, tokenizer_folder: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_tokenizer(resolve(str(tokenizer_folder), tmp_path), tmp_path / name, revision=None, token=False, special_tokens={}, tokens=[])
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert [digest_file(tmp_path / "one" / f) for f in files] == [digest_file(tmp_path / "two" / f) for f in files]


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path):
    with pytest.raises(ModelError, match="transformers finds no tokenizer there"):
        make_tokenizer(resolve(".", tmp_path), tmp_path, revision=None, token=False, special_tokens={}, tokens=[])


def test_a_tokenizer_class_can_be_named(tmp_path: Path, tokenizer_folder: Path):
    place, settings = resolve(str(tokenizer_folder), tmp_path), {"revision": None, "token": False, "special_tokens": {}, "tokens": []}
    assert make_tokenizer(place, tmp_path, kind="PreTrainedTokenizerFast", **settings) == (read_tokenizer(tokenizer_folder).size, [])
    with pytest.raises(ModelError, match=r"tokenizer.tokenizer_type: transformers has no tokenizer class 'LamaTokenizer'; remove it"):
        make_tokenizer(place, tmp_path, kind="LamaTokenizer", **settings)


def test_a_tokenizer_without_an_end_is_told(tmp_path: Path, tokenizer_folder: Path):
    for file in tokenizer_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no end-of-sequence token; set tokenizer\.special_tokens\.eos_token in params\.yaml"):
        read_tokenizer(tmp_path)


def test_a_gguf_tokenizer_splits_digits_and_knows_its_special_tokens(smollm2: Path):
    tokenizer = read_tokenizer(smollm2)
    assert tokenizer.backend.encode("in 2024, x17", add_special_tokens=False).tokens == ["in", "Ġ", "2", "0", "2", "4", ",", "Ġx", "1", "7"]
    facts = gguf_facts(resolve(SMOLLM2, smollm2).local)
    assert len(facts["control"]) == 17
    for id, text in facts["control"]:
        assert tokenizer.backend.encode(text, add_special_tokens=False).ids == [id]


def test_a_gguf_tokenizer_keeps_its_template_and_learns_its_length(smollm2: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.model_max_length == 8192
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
