"""Options whose value is spelled otherwise here: what Axolotl writes → what params.yaml takes."""

from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any

from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.sharding import SHIPPED

SAME_OPTIMIZERS = {
    "adamw_8bit": ("adamw_bnb_8bit", "another name of it"),
    "adamw_hf": ("adamw_torch_fused", "transformers has removed its own AdamW, which made the same update"),
    "adamw_torch_xla": ("adamw_torch_fused", "this is for TPUs"),
    "adamw_torch_npu_fused": ("adamw_torch_fused", "this is for NPUs"),
    "adamw_apex_fused": ("adamw_torch_fused", "torch's own fused AdamW has replaced apex's"),
    "adamw_anyprecision": ("adamw_torch_fused", "torchdistx is no longer maintained"),
    "adamw_32bit": ("adamw_torch_fused", "bitsandbytes in 32 bit makes the same update"),
    "optimi_adamw": ("adamw_torch_fused", "the weights that are trained are in fp32 here"),
    "lion": ("lion_32bit", "bitsandbytes in 32 bit makes the same update"),
    "lion_pytorch": ("lion_32bit", "bitsandbytes in 32 bit makes the same update"),
    "ao_adamw_fp8": ("adamw_bnb_8bit", "bitsandbytes keeps the state in 8 bit too"),
}
"""Name → (the nearest optimizer there is, why it is near)."""
OF_TORCHAO = {
    "adamw_torch_8bit": "torchao is not installed, and bitsandbytes keeps the state in 8-bit blocks too",
    "adamw_torch_4bit": "torchao is not installed, and bitsandbytes has 8 bit as its smallest state",
}
"""Optimizers of torchao → why adamw_bnb_8bit is taken where it is missing, so that the key says what was really run."""


OWN_TEMPLATE = "tokenizer_default"
MODELS_OWN = frozenset(
    {
        *("mistral_v7_tekken", "phi_4", "granite", "granitemoe", "jamba", "exaone4", "command_a", "command_a_rag", "command_a_tool_use"),
        *("gemma4", "gemma4_unified", "llama3_2_vision", "llava", "pixtral", "qwen2_vl", "qwen3_vl", "smollm3", "hunyuan", "minimax"),
        *("gpt_oss", "glm4", "glm45", "kimi", "seed_oss", "apertus", "olmo3", "ernie", "lfm2", "lfm2_vl", "voxtral", "internvl"),
    }
)
"""Templates of Axolotl's that do not come with axolotl: the tokenizers of their models carry them."""


def models_own(name: Any) -> str:
    """Why tokenizer_default is taken in the place of this template, empty where it is not."""
    return (
        f"{OWN_TEMPLATE} for {name}: the tokenizers of the models that talk so carry it"
        if isinstance(name, str) and name in MODELS_OWN
        else ""
    )


def optimizer(name: str) -> tuple[str, str] | None:
    """(its name here, why it is near), None for one that is like none here."""
    plain = f"adamw_torch_{name.removeprefix('ao_adamw_')}" if name.startswith("ao_adamw_") else name
    if plain in OF_TORCHAO and find_spec("torchao") is None:
        return "adamw_bnb_8bit", OF_TORCHAO[plain]
    if plain in tuple(OPTIMIZERS):
        return plain, "" if plain == name else "another name of it"
    return SAME_OPTIMIZERS.get(name)


def deepspeed(file: str) -> str:
    """`deepspeed_configs/zero2.json`, which Axolotl's repository has, → `zero2`; a file of the user's own stays."""
    path = PurePosixPath(file)
    stage = path.stem.partition("_")[0]
    return stage if "deepspeed" in path.parent.name and stage in SHIPPED else file
