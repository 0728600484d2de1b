"""Other ranks and scales for some modules, updates in some layers alone: trained, merged right, and refused where they name nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from axolotl_core.adapters import lora
from axolotl_core.errors import ModelError, ParamsError
from axolotl_core.params.load import load
from tests.conftest import edit, stage

PATTERNS = ("adapter.lora_rank_pattern={q_proj: 2, 'layers.1.mlp.*': 3}", "adapter.lora_alpha_pattern={q_proj: 64}")
LAYERS = ("adapter.peft_layers_to_transform=[1]",)
IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize(
    "options", [PATTERNS, LAYERS, (*PATTERNS, "adapter.peft_use_rslora=true"), (*PATTERNS, "adapter.peft_use_dora=true")]
)
def test_what_is_merged_is_what_was_trained(project: Path, options: tuple[str, ...]):
    stage("merge", *options, "training.max_steps=4", "adapter.lora_dropout=0")
    adapter = load_file(project / "artifacts" / "adapter" / lora.WEIGHTS)
    ranks = {name.split("model.layers.")[1].split(".lora_A")[0]: len(weight) for name, weight in adapter.items() if "lora_A" in name}
    if options is LAYERS:
        assert {name[0] for name in ranks} == {"1"}
    else:
        wanted = {"0.self_attn.q_proj": 2, "1.self_attn.q_proj": 2, "1.mlp.up_proj": 3, "0.mlp.up_proj": 4, "1.self_attn.v_proj": 4}
        assert ranks.items() >= wanted.items()
    base = AutoModelForCausalLM.from_pretrained(project / "model")
    was = logits(base)
    trained = logits(lora.apply(base, project / "artifacts" / "adapter"))
    merged = logits(AutoModelForCausalLM.from_pretrained(project / "artifacts" / "merged"))
    assert (merged - trained).abs().max() < 1e-3 * (trained - was).abs().max()


def test_relora_restarts_with_the_same_ranks(project: Path):
    stage("export", *PATTERNS, "adapter.relora_steps=3", "training.max_steps=6", "adapter.lora_dropout=0")
    base, out = (AutoModelForCausalLM.from_pretrained(project / folder) for folder in ("model", "artifacts/export"))
    assert not torch.equal(logits(base), logits(out))


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            "adapter.lora_rank_pattern={wqkv: 2}",
            r"adapter\.lora_rank_pattern: 'wqkv' is the end of no module with an update; one is called",
        ),
        ("adapter.lora_alpha_pattern={'q_(': 2}", r"adapter\.lora_alpha_pattern: 'q_\(' is not a regular expression"),
        (
            "adapter.peft_layers_to_transform=[0, 2]",
            r"adapter\.peft_layers_to_transform: there is no layer 2; the model has those from 0 to 1",
        ),
    ],
)
def test_a_name_of_nothing_is_told(project: Path, option: str, told: str):
    with pytest.raises(ModelError, match=told):
        stage("train", option)


def test_layers_beside_a_regular_expression_and_without_an_adapter_are_refused(project: Path):
    edit(project / "params.yaml", "  lora_target_linear: true\n", "  lora_target_modules: '.*q_proj'\n  peft_layers_to_transform: [0]\n")
    with pytest.raises(ParamsError, match="beside a regular expression in lora_target_modules, which can name the layers itself"):
        load(project / "params.yaml")


def test_an_adapter_that_is_gone_on_with_keeps_its_ranks(project: Path):
    stage("train", *PATTERNS, "training.max_steps=2")
    (project / "artifacts" / "adapter").rename(project / "given")
    given = ("adapter.lora_model_dir=given", "training.max_steps=2")
    stage("train", *given)
    ranks = load_file(project / "artifacts" / "adapter" / lora.WEIGHTS)
    assert len(ranks["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]) == 2
    with pytest.raises(ModelError, match="lora_rank_pattern is {'q_proj': 8}, but the adapter in lora_model_dir has"):
        stage("train", *given, "adapter.lora_rank_pattern={q_proj: 8}")


def test_options_of_an_old_yaml(tmp_path: Path):
    file = tmp_path / "old.yml"
    file.write_text(
        "base_model: x\ndatasets: [{path: a.jsonl, type: alpaca}]\nadapter: lora\nlora_target_linear: true\n"
        "lora_rank_pattern: {q_proj: 4}\nlora_alpha_pattern: {q_proj: 8}\npeft_layers_to_transform: [0, 1]\n"
        "micro_batch_size: 1\ngradient_accumulation_steps: 1\n"
    )
    found = load(file).adapter
    assert (found.lora_rank_pattern, found.lora_alpha_pattern, found.peft_layers_to_transform) == ({"q_proj": 4}, {"q_proj": 8}, [0, 1])
