"""Rows longer than the base's positions are refused with the remedy, and the remedy is in whatever loads the base and in the export."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from axolotl_core.errors import ParamsError
from axolotl_core.models.forward import ForwardSpec, forward
from axolotl_core.models.positions import changes, longest, remedy, scale
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
    last = longest(model.config) or 64  # gpt-oss and Ministral 3 have a scaling of their own
    with pytest.raises(ParamsError, match=rf"packing\.sequence_len is {last + 136}, but .* {last}"):
        check_positions(model, last + 136)


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


def test_what_the_base_has_beside_its_scaling_stays(tmp_path: Path):
    """Ministral 3's scale by position, DeepSeek's scale of scores."""
    folder = written(tmp_path, "deepseek_v3")
    config = json.loads((folder / "config.json").read_text())
    own = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "beta_fast": 30,
    }
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": {"rope_theta": 1e4, **own}}))
    scale(folder, RopeScaling(rope_type="yarn", factor=8.0))
    found = AutoConfig.from_pretrained(folder).rope_parameters
    assert found["mscale_all_dim"] == 0.7
    assert "beta_fast" not in found
    ministral = written(tmp_path / "other", "ministral3")
    scale(ministral, RopeScaling(rope_type="linear", factor=2.0))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ministral))
    model(torch.ones(1, 70, dtype=torch.long), use_cache=False).logits.sum().backward()


def test_the_factor_that_is_named_is_that_over_what_the_base_was_trained_on():
    llama = LlamaConfig(
        max_position_embeddings=131072,
        rope_parameters={
            "rope_theta": 5e5,
            **LLAMA_3_1,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    assert (longest(llama), remedy(llama, 200_000)) == (131072, "{rope_type: yarn, factor: 25}")
    assert longest(llama, RopeScaling(rope_type="yarn", factor=25)) >= 200_000
    qwen = LlamaConfig(
        max_position_embeddings=32768, rope_parameters={"rope_theta": 1e6, **YARN, "original_max_position_embeddings": 32768}
    )
    assert longest(qwen) == 131072, "as its card says it, beside the length of before"


@pytest.mark.parametrize("family", ["phi3", "phimoe"])
def test_a_model_that_takes_no_such_scaling_says_so(tmp_path: Path, family: str):
    config = AutoConfig.from_pretrained(written(tmp_path, family))
    with pytest.raises(ParamsError, match=rf"model\.rope_scaling: a {family} does not take it: "):
        changes(config, RopeScaling(**YARN))
    assert remedy(config, 200) is None
    with pytest.raises(ParamsError, match=r"set it to 64 or less$"):
        check_positions(model_on_meta(tmp_path), 200)


def test_layers_with_positions_of_several_kinds_are_not_scaled():
    config = config_of("llama")
    config.rope_parameters = {"main": dict(config.rope_parameters), "compress": dict(config.rope_parameters)}
    with pytest.raises(ParamsError, match="layers of a llama have positions of different kinds"):
        changes(config, RopeScaling(**YARN))
    assert longest(config) is None


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_dynamic_rotations_forget_the_rows_before(tmp_path: Path, family: str):
    """What a row gives is the same whatever was run before it; it is turned slower where it is longer than the base's."""
    folder = written(tmp_path, family, sliding_window=512)
    scale(folder, RopeScaling(rope_type="dynamic", factor=4.0))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    ids = torch.randint(3, 500, (1, 200))

    def logits(tokens: int) -> torch.Tensor:
        with torch.no_grad():
            return forward(model, ids[:, :tokens], torch.arange(tokens)[None], ForwardSpec())

    first = logits(80)
    long = logits(200)
    assert torch.equal(logits(80), first)
    assert (long[:, :80] - first).abs().max() > 1e-5
    assert torch.equal(logits(200), long)


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ("{rope_type: linear, factor: 2, beta_fast: 32}", "rope_scaling: beta_fast means nothing to the type linear; remove it"),
        ("{rope_type: llama3, factor: 2, low_freq_factor: 4}", "high_freq_factor .* must be more than low_freq_factor"),
        ("{rope_type: ntk, factor: 2}", "rope_type"),
    ],
)
def test_a_scaling_that_cannot_be_meant_is_told(project: Path, scaling: str, told: str):
    edit(project / "params.yaml", "  base_model: ./model\n", f"  base_model: ./model\n  rope_scaling: {scaling}\n")
    with pytest.raises(ParamsError, match=told):
        load(project / "params.yaml")


def test_both_spellings_of_the_type_may_be_there():
    assert RopeScaling(type="yarn", rope_type="yarn", factor=2.0).identity() == {"rope_type": "yarn", "factor": 2.0}


def test_check_says_what_fetch_model_would(project: Path, axolotl):
    edit(project / "params.yaml", "  base_model: ./model\n", "  base_model: ./model\n  rope_scaling: {rope_type: yarn, factor: 2}\n")
    config_of("gpt2").save_pretrained(project / "model")
    assert "model.rope_scaling: a gpt2 has no rotary positions" in axolotl("check", cwd=project, status=2).stderr


def test_rope_scaling_of_an_old_yaml(tmp_path: Path):
    file = tmp_path / "old.yml"
    file.write_text(
        "base_model: x\ndatasets: [{path: a.jsonl, type: alpaca}]\nrope_scaling: {type: linear, factor: 2.0}\n"
        "micro_batch_size: 1\ngradient_accumulation_steps: 1\n"
    )
    assert load(file).model.rope_scaling == RopeScaling(type="linear", factor=2.0)
