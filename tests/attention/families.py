"""Small configs of families whose attention has something of its own."""

from typing import Any

import transformers

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SMALL |= {"intermediate_size": 48, "head_dim": 8, "pad_token_id": 0}
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "attn_logit_softcapping": 2.0},
    "gpt_oss": {"sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {},
}
"""A window, a soft cap and a window, sinks and a window, normalised queries."""


def config_of(family: str, **others: Any) -> Any:
    shape = {name: size for name, size in SMALL.items() if (family, name) != ("falcon", "head_dim")}  # it has it from the others
    return transformers.AutoConfig.for_model(family, **shape | FAMILIES.get(family, {}) | others)
