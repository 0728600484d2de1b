"""Every type of model that is named in the README, through the real stages: refused where it cannot be packed, trained, exported, and
the same wherever it is loaded.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from axolotl_core.adapters import lora
from axolotl_core.errors import ModelError
from axolotl_core.models.weights import weight_files
from tests.conftest import LORA, edit, stage
from tests.families import SHAPES, config_of, seen, write_base

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 11, 12, 13]])


def model_of(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [folder / lora.WEIGHTS] if (folder / lora.WEIGHTS).exists() else weight_files(folder)
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def refused(options: list[str], told: str, remedy: str) -> None:
    with pytest.raises(ModelError, match=told):
        stage("train", *options)
    options.append(remedy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", SHAPES)
def test_a_model_is_trained_exported_and_loaded_again(project: Path, family: str, method: str, dtype: torch.dtype):
    write_base(project, config_of(family), dtype)
    options = ["training.max_steps=4", f"training.bf16={str(dtype == torch.bfloat16).lower()}", "training.learning_rate=5e-3"]
    if not seen()[family]["packed"]:
        refused(options, r"packed samples see each other|lets packed samples see each other", "packing.sample_packing=false")
    if method == "full":
        edit(project / "params.yaml", LORA, "  adapter:\n")
    elif not seen()[family]["dropout"]:
        refused(options, "set lora_dropout: 0", "adapter.lora_dropout=0")
    stage("export", *options)
    trained = weights(project / "artifacts" / "adapter")
    found = json.loads((project / "artifacts" / "metrics" / "train.json").read_text())
    assert found["eval_loss_after"] < found["eval_loss_before"]
    exported, base = project / "artifacts" / "export", model_of(project / "model")
    was, merged = logits(base), logits(model_of(exported))
    assert {tensor.dtype for tensor in weights(exported).values() if tensor.is_floating_point()} <= {dtype, torch.float32}
    assert weights(exported).keys() == weights(project / "model").keys()
    if method == "lora":
        with_adapter = logits(lora.apply(base, project / "artifacts" / "adapter"))
        share = 1e-3 if dtype == torch.float32 else 0.3  # what rounding the merged weights does to a few steps' change
        assert (merged - with_adapter).abs().mean() < share * (with_adapter - was).abs().mean()
    assert (merged - was).abs().max() > 1e-2
    if dtype == torch.float32:
        stage("train", *options, "machine.gradient_checkpointing=true", force=True)
        again = weights(project / "artifacts" / "adapter")
        assert all(torch.allclose(again[name], tensor, atol=1e-4) for name, tensor in trained.items())
