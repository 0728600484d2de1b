"""Kernels of triton, run by its interpreter on a CPU: TRITON_INTERPRET=1 python -m tests.kernels.interpreted [train]. A process of
its own, for triton reads the variable once, when a kernel is defined.

The interpreter has no libdevice: what the kernels take from it (rsqrt, tanh, log1p) is written out here. Nor has it bfloat16, so the
sixteen bits are those of float16.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import triton
import triton.language as tl

from axolotl_core import lookup
from axolotl_core.adapters import lora
from axolotl_core.attention.choose import backend
from axolotl_core.kernels.choose import LAYERS, LOSSES
from axolotl_core.models.activations import checkpoint_layers
from axolotl_core.models.forward import ForwardSpec
from axolotl_core.models.load import need_of
from axolotl_core.models.self_test import difference, small_model
from axolotl_core.objectives.cross_entropy import kernel_difference
from axolotl_core.objectives.sft import Objective
from axolotl_core.params.adapter import Adapter
from tests.conftest import stage
from tests.rows_in_memory import LENGTHS, source

CPU = torch.device("cpu")
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL |= {"intermediate_size": 48, "head_dim": 8, "pad_token_id": 0}
FAMILIES = ("llama", "gemma2", "qwen3", "glm4", "phi3")


@triton.jit
def rsqrt(x):
    return 1 / tl.sqrt(x)


@triton.jit
def tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def log1p(x):
    return tl.log(1 + x)


def without_libdevice() -> None:
    import cut_cross_entropy.tl_utils as cut
    import liger_kernel.ops.geglu as geglu
    import liger_kernel.ops.rms_norm as rms_norm

    rms_norm.rsqrt, geglu.tanh, cut.tl_log1p = rsqrt, tanh, log1p


def model_of(family: str, dtype: torch.dtype) -> Any:
    backend("varlen")
    config = transformers.AutoConfig.for_model(family, **SMALL)
    model = small_model(config, "varlen", CPU, dtype)
    assert model is not None
    model.config.use_cache = False
    torch.manual_seed(1)
    for parameter in model.parameters():  # norms that are told apart by their weights
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def layers(name: str) -> dict[str, Any]:
    """For each family and dtype: how many modules run the kernel, and how the model's numbers differ."""
    kernel, found = lookup.find(LAYERS, name, "kernel"), {}
    for family in FAMILIES:
        for dtype in (torch.float32, torch.float16):
            model = model_of(family, dtype)
            assert kernel.fits(need_of(model.config, CPU, dtype, packed=True)) is None
            replaced: list[Any] = []
            wrong = difference(model, ForwardSpec(), None, lambda: replaced.extend(kernel.replace(model, CPU)))  # noqa: B023
            found[f"{family} {dtype}"] = [len(replaced), wrong]
    return found


def with_selective_checkpointing() -> float:
    """Largest difference of gradients, as a share, of all layer kernels under selective checkpointing, from none of either."""
    found = []
    for kernels in (False, True):
        model = model_of("llama", torch.float32)
        if kernels:
            for name in ("liger_rms_norm", "liger_glu_activation", "liger_rope"):
                assert lookup.find(LAYERS, name, "kernel").replace(model, CPU)
            checkpoint_layers(model, selective=True)
        inputs = source(LENGTHS).batch([0, 1]).place(CPU)
        inputs = inputs._replace(ids_BT=inputs.ids_BT % 128, labels_N=inputs.labels_N % 128)
        Objective(model, ForwardSpec(split=True)).train()(inputs).backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    return float((found[0] - found[1]).abs().max() / found[0].abs().max())


def copied_by_peft() -> list[str]:
    """Copies of modules that peft trains beside the model (lora_modules_to_save) and that get no gradient, though they run a kernel."""
    model = model_of("llama", torch.float32)
    for name in ("liger_rms_norm", "liger_glu_activation"):
        assert lookup.find(LAYERS, name, "kernel").replace(model, CPU)
    adapter = Adapter(adapter="lora", lora_target_modules=["q_proj"], lora_modules_to_save=["input_layernorm", "mlp"])
    attached = lora.attach(model, adapter).train()
    inputs = source(LENGTHS).batch([0]).place(CPU)
    inputs = inputs._replace(ids_BT=inputs.ids_BT % 128, labels_N=inputs.labels_N % 128)
    Objective(attached, ForwardSpec(split=True)).train()(inputs).backward()
    return [name for name, parameter in attached.named_parameters() if "modules_to_save" in name and parameter.grad is None]


def losses(name: str) -> dict[str, Any]:
    """For each dtype: how the kernel's loss and gradients differ from ours."""
    kernel, found = lookup.find(LOSSES, name, "kernel"), {}
    for dtype in (torch.float32, torch.float16):
        model = model_of("llama", dtype)
        if kernel.fits(need_of(model.config, CPU, dtype, packed=True)) is None:
            found[str(dtype)] = kernel_difference(model, None, CPU, kernel.loss_sum)
    wrong = lambda *states: kernel.loss_sum(*states) * 1.5  # noqa: E731
    found["a loss that is wrong"] = kernel_difference(copy.deepcopy(model), None, CPU, wrong)
    return found


def trained() -> dict[str, Any]:
    """Metrics of the project in this folder, trained without and with kernels."""
    metrics = Path("artifacts/metrics/train.json")
    kernels = [f"machine.{option}=true" for option in ("liger_rms_norm", "liger_swiglu", "liger_rope", "liger_fused_linear_cross_entropy")]
    found = {}
    for name, options in (("plain", []), ("kernels", kernels)):
        stage("train", "training.max_steps=2", "training.batch_size=1", "packing.val_set_size=0", *options, force=True)
        found[name] = json.loads(metrics.read_text())
    return found


if __name__ == "__main__":
    without_libdevice()
    if sys.argv[1:] == ["train"]:
        print(json.dumps(trained()))
    else:
        tables = (LAYERS, layers), (LOSSES, losses)
        found = {name: run(name) for table, run in tables for name in lookup.names(table) if not name.startswith("flash")}
        print(json.dumps(found | {"selective": with_selective_checkpointing(), "copied": copied_by_peft()}))
