"""Rows that teach nothing, validation rows that are none, rows longer than the model's positions: said before the first step."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from axolotl_core.errors import DataError, ParamsError
from axolotl_core.packing.index import read_rows
from axolotl_core.stages.pack import targets
from axolotl_core.tokens.samples import Samples
from tests.conftest import edit, stage, write_jsonl

PLAIN = ("packing.sample_packing=false",)


def long_prompts(project: Path) -> None:
    """Half of the rows have a prompt that sequence_len cuts the answer off of."""
    words = "What is the sum of one and two and three? " * 8
    rows = [{"instruction": words if i % 2 else f"Add {i}.", "output": f"{i}."} for i in range(12)]
    write_jsonl(project / "data" / "sums.jsonl", rows)


def packed(project: Path) -> dict:
    return json.loads((project / "artifacts" / "packed" / "manifest.json").read_text())


@pytest.mark.parametrize("excess", ["truncate", "split"])
@pytest.mark.parametrize("packing", [(), PLAIN], ids=["packed", "one a row"])
def test_every_row_has_a_target_and_what_has_none_is_counted(project: Path, excess: str, packing: tuple, capsys):
    long_prompts(project)
    options = (f"packing.excess_length={excess}", "packing.sequence_len=64", "packing.val_set_size=3", *packing)
    stage("evaluate", *options)
    facts, artifacts = packed(project), project / "artifacts"
    samples = [Samples(artifacts / "tokens" / name) for name in facts["datasets"]]
    for part in ("train", "eval"):
        assert targets(read_rows(artifacts / "packed" / part).pieces, samples).min() > 0
    assert facts["without_target"]["sums"] >= 6
    assert f"; sums: {facts['without_target']['sums']:,} without a target token left dropped" in capsys.readouterr().out
    losses = [float(line.split(",")[2]) for line in (artifacts / "plots" / "train.csv").read_text().splitlines()[1:]]
    assert min(losses) > 0
    report = json.loads((artifacts / "evaluation" / "report.json").read_text())
    assert report["after"]["tokens"] > 0


def test_a_plan_without_such_rows_says_nothing_of_them(project: Path):
    stage("pack")
    assert "without_target" not in packed(project)


def test_no_target_left_at_all_is_an_error(project: Path):
    with pytest.raises(DataError, match="no token is trained: sequence_len 8 cuts every answer off; raise it"):
        stage("pack", "packing.excess_length=truncate", "packing.sequence_len=8")


def test_targets_do_not_count_the_first_label(project: Path):
    stage("pack", *PLAIN)
    artifacts = project / "artifacts"
    data = Samples(artifacts / "tokens" / "sums")
    pieces = read_rows(artifacts / "packed" / "train").pieces
    found = targets(pieces, [data, Samples(artifacts / "tokens" / "talks")])
    mine = np.flatnonzero(pieces.dataset == 0)[:5]
    assert [int((data.sample(int(pieces.sample[i]))[1][1:] != -100).sum()) for i in mine] == found[mine].tolist()


@pytest.mark.parametrize("option", ["early_stopping_patience=2", "load_best_model_at_end=true"])
def test_choosing_the_best_of_no_validation_rows_is_refused_before_training(project: Path, option: str, capsys):
    name = option.partition("=")[0]
    with pytest.raises(
        ParamsError, match=rf"training.{name} requires validation rows, but packing.val_set_size holds out none of \d+ rows; set"
    ):
        stage("train", f"training.{option}", "packing.val_set_size=0.01")
    told = capsys.readouterr().out
    assert "0 validation rows (val_set_size 0.01 of 36 samples rounds to 0)" in told
    assert "step" not in told
    stage("train", "packing.val_set_size=0.01", "training.max_steps=1")


def test_rows_longer_than_learned_positions_are_refused(project: Path):
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    shutil.rmtree(project / "model")
    config = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=100, bos_token_id=1, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(project / "model")
    tokenizer.save_pretrained(project / "model")
    edit(project / "params.yaml", "  lora_target_linear: true\n", "  lora_target_modules: [c_attn]\n")
    with pytest.raises(ParamsError, match=r"packing.sequence_len is 128, but GPT2LMHeadModel has a table of 100 positions .*to 100 or"):
        stage("train")
    stage("train", "packing.sequence_len=100", "training.max_steps=2")
    with pytest.raises(ParamsError):
        stage("train", "packing.sequence_len=101", "training.max_steps=2")


def test_a_run_whose_learning_rate_is_zero_says_so(project: Path, capsys):
    stage("train", "training.max_steps=1", "training.warmup_steps=3")
    told = capsys.readouterr().out
    assert "the run has 1 step, and warmup_steps is 3: it ends while the learning rate still climbs" in told
    assert "the learning rate is 0 in every step (warmup_steps 3), so nothing is trained; set warmup_steps: 0" in told
