"""LoRA on a base that GPTQ has really quantised; in an environment of its own, since gptqmodel pins numpy: `make test-gptq`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig, LlamaConfig, LlamaForCausalLM

from axolotl_core.errors import ModelError
from tests.conftest import CORPUS, edit, stage


@pytest.fixture
def quantised(project: Path, tokenizer_folder: Path) -> Path:
    """The project with a base of 4 bit: groups of 32 want features in multiples of 32."""
    torch.manual_seed(0)
    shape = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, initializer_range=0.2, eos_token_id=2, pad_token_id=0))
    whole = project / "whole"
    model.save_pretrained(whole)
    for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, whole / file.name)
    config = GPTQConfig(bits=4, dataset=[text * 8 for text in CORPUS], tokenizer=AutoTokenizer.from_pretrained(whole), group_size=32)
    shutil.rmtree(project / "model")
    AutoModelForCausalLM.from_pretrained(whole, quantization_config=config, dtype=torch.float32).save_pretrained(project / "model")
    for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, project / "model" / file.name)
    return project


def test_lora_trains_on_a_gptq_base_and_cannot_be_merged_into_it(quantised: Path):
    stage("evaluate", "model.gptq=true")
    metrics = json.loads((quantised / "artifacts" / "metrics" / "train.json").read_text())
    assert metrics["eval_loss_after"] < metrics["eval_loss_before"] - 1
    report = json.loads((quantised / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(metrics["eval_loss_after"], rel=1e-2)
    with pytest.raises(ModelError, match=r"the base is stored quantised \(gptq\), so there are no full weights to merge into"):
        stage("merge", "model.gptq=true")


def test_a_gptq_base_wants_the_option_and_the_option_a_gptq_base(quantised: Path, capfd):
    with pytest.raises(ModelError, match=r"its weights are quantised \(gptq\); set gptq: true for GPTQ, or take the full model"):
        stage("train")
    with pytest.raises(ModelError, match="model.gptq_groupsize is 128, but the checkpoint has 32; remove it"):
        stage("train", "model.gptq=true", "model.gptq_groupsize=128")
    edit(quantised / "params.yaml", "base_model: ./model", "base_model: ./whole")
    stage("train", "model.gptq=true")
    assert "model.gptq: the weights of ./whole are not quantised, they are taken as they are" in capfd.readouterr().out
