"""A tiny model of each type that is tried, by its config; `python -m tests.docs_tables` writes what was seen of them into the README."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

SEEN = Path(__file__).parent / "golden" / "families.json"
SIZE = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SPECIAL = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}
GROUPED = {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 8}
WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
DEEPSEEK = {"num_key_value_heads": 4, "n_routed_experts": 4, "first_k_dense_replace": 1} | EXPERTS | LATENT
SHARED = {"num_experts": 4, "shared_expert_intermediate_size": 32} | EXPERTS
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
LAYERED = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 512, "laurel_rank": 4, "num_kv_shared_layers": 0}
LAYERED |= {"activation_sparsity_pattern": [0.5, 0.0]}
GPT2 = {"vocab_size": 512, "n_embd": 32, "n_layer": 2, "n_head": 4}
MPT = {"vocab_size": 512, "d_model": 32, "n_layers": 2, "n_heads": 4}
OPT = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64, "num_attention_heads": 4, "word_embed_proj_dim": 32}
BLOOM = {"vocab_size": 512, "hidden_size": 32, "n_layer": 2, "n_head": 4}
MAMBA = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
SHAPES: dict[str, dict[str, Any]] = {
    "arcee": SIZE | GROUPED,
    "bloom": BLOOM,
    "cohere": SIZE | GROUPED,
    "cohere2": SIZE | GROUPED | WINDOW,
    "deepseek_v2": SIZE | DEEPSEEK | {"n_shared_experts": 1, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "deepseek_v3": SIZE | DEEPSEEK | {"n_group": 2, "topk_group": 1},
    "ernie4_5": SIZE | HEADS,
    "falcon": SIZE | {"alibi": False, "new_decoder_architecture": False},
    "falcon with ALiBi": SIZE | {"alibi": True, "new_decoder_architecture": False},
    "falcon_mamba": MAMBA,
    "gemma": SIZE | HEADS,
    "gemma2": SIZE | HEADS | WINDOW,
    "gemma3": {
        "text_config": SIZE | HEADS | WINDOW | SPECIAL,
        "vision_config": SIZE | {"num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "image_token_index": 500,
    },
    "gemma3_text": SIZE | HEADS | WINDOW,
    "gemma3n_text": SIZE | HEADS | WINDOW | LAYERED,
    "glm": SIZE | HEADS,
    "glm4": SIZE | HEADS,
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neox": SIZE,
    "gpt_oss": SIZE | HEADS | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": GPT2 | {"rotary_dim": 4},
    "granite": SIZE | GROUPED,
    "granitemoe": SIZE | GROUPED | {"num_local_experts": 4},
    "llama": SIZE | GROUPED,
    "llama4_text": SIZE | HEADS | {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 64, "moe_layers": [1]},
    "mamba": MAMBA,
    "ministral3": SIZE | HEADS,
    "mistral": SIZE | HEADS | {"sliding_window": 16},
    "mixtral": SIZE | GROUPED | {"num_local_experts": 4},
    "mpt": MPT,
    "nemotron": SIZE | GROUPED,
    "olmo": SIZE,
    "olmo2": SIZE,
    "olmo3": SIZE | WINDOW,
    "olmoe": SIZE | GROUPED | {"num_experts": 4, "num_experts_per_tok": 2},
    "opt": OPT,
    "phi": SIZE,
    "phi3": SIZE,
    "phimoe": SIZE | GROUPED | {"num_local_experts": 4},
    "qwen2": SIZE | GROUPED,
    "qwen2_moe": SIZE | GROUPED | SHARED,
    "qwen3": SIZE | HEADS,
    "qwen3_moe": SIZE | HEADS | {"num_experts": 4} | EXPERTS,
    "qwen3_next": SIZE | HEADS | SHARED | LINEAR,
    "seed_oss": SIZE | HEADS,
    "smollm3": SIZE | GROUPED,
    "stablelm": SIZE | GROUPED,
    "starcoder2": SIZE | GROUPED,
}


def config_of(family: str) -> PreTrainedConfig:
    shape = SHAPES[family]
    return AutoConfig.for_model(family.split()[0], **(shape if "text_config" in shape else shape | SPECIAL))


def seen() -> dict[str, dict[str, bool]]:
    """Family → whether its rows are packed, and whether LoRA takes a dropout, as the tests have seen it."""
    found: dict[str, dict[str, bool]] = json.loads(SEEN.read_text(encoding="utf-8"))
    return found


def write_base(project: Path, config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Put a random model in the place of the project's; the tokenizer stays."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    shutil.rmtree(project / "model")
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):  # Gemma 3n divides by the length of a token's vector, which is 0 for padding
            torch.nn.init.normal_(module.weight, 0, 0.2)
    model.save_pretrained(project / "model")
    tokenizer.save_pretrained(project / "model")
