"""Rows longer than the base's positions are refused with the remedy, and the remedy is in whatever loads the base and in the export."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from axolotl_core.errors import ParamsError
from axolotl_core.models.positions import changes, longest, scale
from axolotl_core.models.shape import check_positions, model_on_meta
from axolotl_core.params.load import load
from axolotl_core.params.model import RopeScaling
from tests.conftest import edit, stage
from tests.families import SHAPES, config_of

YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA_3_1 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}


def written(folder: Path, family: str = "llama", **changed) -> Path:
    config = config_of(family)
    config.get_text_config().max_position_embeddings = 64
    if family == "gpt_neox":
        config.num_attention_heads = 1  # a quarter of a head is rotated
    config.update(changed)
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scaling", [{"type": "linear", "factor": 2}, {"rope_type": "dynamic", "factor": 2.0}, YARN, LLAMA_3_1], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3", "phi", "gemma3_text"])
def test_a_scaling_is_in_the_config_that_transformers_reads(tmp_path: Path, family: str, scaling: dict):
    folder, asked = written(tmp_path, family), RopeScaling(**scaling)
    before = AutoConfig.from_pretrained(folder)
    wanted = longest(before, asked)
    scale(folder, asked)
    after = AutoConfig.from_pretrained(folder)
    own, was = (config.rope_parameters.get("full_attention", config.rope_parameters) for config in (after, before))
    assert own.items() >= asked.identity().items()
    assert own["rope_theta"] == was["rope_theta"]
    assert own.get("partial_rotary_factor") == was.get("partial_rotary_factor")
    assert longest(after) == wanted == {"linear": 128, "dynamic": 128, "yarn": 256, "llama3": 256}[asked.rope_type]
    if family == "gemma3_text":
        assert after.rope_parameters["sliding_attention"] == before.rope_parameters["sliding_attention"]
    torch.manual_seed(0)
    long = torch.randint(3, 500, (1, 100))
    rotated = []
    for config in (before, after):
        torch.manual_seed(0)
        with torch.no_grad():
            rotated.append(AutoModelForCausalLM.from_config(config).eval()(long, use_cache=False).logits)
    assert (rotated[0] - rotated[1]).abs().max() > 1e-4
    scale(folder, asked)  # in the place of the one that is there
    assert longest(AutoConfig.from_pretrained(folder)) == wanted


def test_a_scaling_that_an_old_config_has_gives_way(tmp_path: Path):
    """As configs before transformers 5 write it."""
    folder = written(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}))
    assert longest(AutoConfig.from_pretrained(folder)) == 256
    scale(folder, RopeScaling(rope_type="dynamic", factor=2.0))
    after = AutoConfig.from_pretrained(folder)
    assert (after.rope_parameters["rope_type"], after.rope_parameters["rope_theta"], longest(after)) == ("dynamic", 5e5, 128)


@pytest.mark.parametrize("family", ["gpt2", "mpt", "bloom", "opt", "gptj", "mamba"])
def test_a_model_without_rotary_positions_is_not_scaled(family: str):
    config = config_of(family)
    with pytest.raises(ParamsError, match=rf"model\.rope_scaling: a {family} has no rotary positions that could be scaled; remove it"):
        changes(config, RopeScaling(**YARN))
    assert longest(config) is None


@pytest.mark.parametrize("family", SHAPES)
def test_every_family_knows_how_long_its_rows_may_be(tmp_path: Path, family: str):
    """ALiBi and state spaces have no limit."""
    folder = written(tmp_path, family) if family not in ("mpt", "bloom", "mamba", "falcon_mamba") else tmp_path
    if folder is tmp_path and not (folder / "config.json").exists():
        config_of(family).save_pretrained(folder)
    model = model_on_meta(folder)
    check_positions(model, 64)
    if family in ("mpt", "bloom", "mamba", "falcon_mamba", "falcon with ALiBi"):
        check_positions(model, 10**6)
        return
    with pytest.raises(ParamsError, match=r"packing\.sequence_len is 200, but .* 64"):
        check_positions(model, 200)


def test_long_rows_are_refused_before_the_model_is_loaded_and_trained_with_the_remedy(project: Path, axolotl):
    config = json.loads((project / "model" / "config.json").read_text())
    (project / "model" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    told = "packing.sequence_len is 128, but LlamaForCausalLM has rotary positions for 64 tokens; set it to 64 or less, or "
    remedy = "model.rope_scaling: {rope_type: yarn, factor: 2}"
    assert f"params.yaml:12: {told}{remedy}" in axolotl("check", cwd=project, status=2).stderr.replace(": is ", " is ")
    with pytest.raises(ParamsError) as refused:
        stage("train")
    assert told + remedy in str(refused.value)
    edit(project / "params.yaml", "  base_model: ./model\n", "  base_model: ./model\n  rope_scaling: {rope_type: yarn, factor: 2}\n")
    axolotl("check", cwd=project)
    stage("evaluate", "training.max_steps=2")
    stage("export", "training.max_steps=2")
    for folder in ("artifacts/base", "artifacts/export"):
        found = AutoConfig.from_pretrained(project / folder)
        assert found.max_position_embeddings == 128
        assert found.rope_parameters.items() >= {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}.items()
    assert json.loads((project / "model" / "config.json").read_text())["max_position_embeddings"] == 64


def test_rope_scaling_of_an_old_yaml(tmp_path: Path):
    file = tmp_path / "old.yml"
    file.write_text(
        "base_model: x\ndatasets: [{path: a.jsonl, type: alpaca}]\nrope_scaling: {type: linear, factor: 2.0}\n"
        "micro_batch_size: 1\ngradient_accumulation_steps: 1\n"
    )
    assert load(file).model.rope_scaling == RopeScaling(type="linear", factor=2.0)
