"""A quantised base: nf4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314) or LLM.int8 (arXiv 2208.07339)
by bitsandbytes, or a checkpoint that GPTQ has quantised (arXiv 2210.17323) by gptqmodel.
"""

import importlib.util
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig, GPTQConfig

from axolotl_core.errors import MachineError, ModelError
from axolotl_core.params.model import Model

Quantised = Literal["4bit", "8bit", "gptq"]
PACKAGES = {"4bit": ("bitsandbytes",), "8bit": ("bitsandbytes",), "gptq": ("gptqmodel", "optimum")}
EXTRA = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "gptq": "gptq"}


def quantised(model: Model) -> Quantised | None:
    """What params.yaml asks for."""
    if model.gptq:
        return "gptq"
    return "4bit" if model.load_in_4bit else "8bit" if model.load_in_8bit else None


def settings_of(model: Model | None, config: Any, compute: torch.dtype) -> dict[str, Any]:
    """Arguments of from_pretrained; empty where nothing is quantised. model None: as it is stored. compute: format of the products.

    Raises MachineError when the package is missing, ModelError when the checkpoint and `gptq` do not agree.
    """
    kind = quantised(model) if model else None
    name, stored = model.base_model if model else config.name_or_path, getattr(config, "quantization_config", None)
    if stored is not None and kind != "gptq":
        method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
        raise ModelError(f"{name}: its weights are quantised ({method}); set gptq: true for GPTQ, or take the full model")
    if model is None or kind is None or (kind == "gptq" and stored is None):
        return {}
    for package in PACKAGES[kind]:
        if importlib.util.find_spec(package) is None:
            raise MachineError(f"model: a {kind} base wants the package {package}; pip install 'axolotl[{EXTRA[kind]}]'")
    if kind == "4bit":
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": compute}
        return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **nf4)}
    if kind == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    described = stored if isinstance(stored, dict) else stored.to_dict()
    if model.gptq_groupsize not in (None, described.get("group_size")):
        raise ModelError(f"model.gptq_groupsize is {model.gptq_groupsize}, but the checkpoint has {described.get('group_size')}; remove it")
    version_1 = described.get("checkpoint_format", "gptq") == "gptq"
    if model.gptq_model_v1 not in (None, version_1):
        raise ModelError(f"model.gptq_model_v1 is {model.gptq_model_v1}, but the checkpoint's format is {described['checkpoint_format']}")
    return {"quantization_config": GPTQConfig(bits=described["bits"], backend="auto_trainable")}


def untrue(model: Model | None, config: Any) -> str | None:
    """A sentence where `gptq` is said of weights that are not quantised."""
    if model is None or not model.gptq or getattr(config, "quantization_config", None) is not None:
        return None
    return f"model.gptq: the weights of {model.base_model} are not quantised, they are taken as they are"


def keep_quantised(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew in the first pass without a gradient, on CPUs with AVX512-BF16.

    It rounds their scales to bf16 for good, and the packed form has no backward pass.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantised(layer: Any) -> bool:
    """Whether a linear layer is one of bitsandbytes."""
    return type(layer.weight).__name__ in ("Params4bit", "Int8Params")


def put_weight(layer: Any, weight: torch.Tensor) -> None:
    """Give a linear layer, quantised or not, a new weight (out, in); it is quantised as the old one was."""
    old = layer.weight
    kind = type(old).__name__
    if kind == "Params4bit":
        import bitsandbytes

        keep = {name: getattr(old, name) for name in ("blocksize", "compress_statistics", "quant_type", "quant_storage")}
        layer.weight = bitsandbytes.nn.Params4bit(weight.to("cpu", old.quant_state.dtype), requires_grad=False, **keep).to(old.device)
    elif kind == "Int8Params":
        import bitsandbytes

        layer.weight = bitsandbytes.nn.Int8Params(weight.to("cpu"), requires_grad=False, has_fp16_weights=False).to(old.device)
        layer.state.reset_grads()
        layer.state.CB, layer.state.SCB = None, None
    else:
        with torch.no_grad():
            old.copy_(weight)
