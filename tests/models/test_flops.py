"""Floating-point operations from a model's shape against those that torch counts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DeepseekV3Config, GPT2Config, LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config

from axolotl_core.adapters import lora
from axolotl_core.models.flops import training_flops
from axolotl_core.params.adapter import Adapter

TOKENS = 24
SHAPE = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "tied": Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "wide heads": LlamaConfig(**SHAPE, num_key_value_heads=4, head_dim=32),
    "gpt2": GPT2Config(vocab_size=256, n_embd=64, n_layer=3, n_head=4),
}


def counted(model) -> float:
    """By torch, of one sample whose every token is a target; eager attention multiplies all pairs, those that nobody sees too."""
    ids = torch.arange(TOKENS)[None] + 3
    model.train()
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    return float(counter.get_total_flops())


def expected(model) -> float:
    found = training_flops(model)
    pairs = sum(found.attention.values()) * (TOKENS**2 - TOKENS * (TOKENS + 1) // 2)
    return found.of([TOKENS], TOKENS) + pairs


@pytest.mark.parametrize("family", CONFIGS)
def test_a_full_fine_tune_is_what_torch_counts(family: str):
    model = AutoModelForCausalLM.from_config(CONFIGS[family], attn_implementation="eager")
    rotary = 0.001 if family != "gpt2" else 0.0  # angles are a product of matrices too
    assert counted(model) == pytest.approx(expected(model), rel=0.002 + rotary)


def test_lora_computes_no_gradient_of_frozen_weights():
    base = AutoModelForCausalLM.from_config(CONFIGS["llama"], attn_implementation="eager")
    full = expected(base)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))
    model.enable_input_require_grads()
    assert counted(model) == pytest.approx(expected(model), rel=0.01)
    assert expected(model) < 0.8 * full


def test_a_saved_module_is_counted_once_and_trained():
    base = AutoModelForCausalLM.from_config(CONFIGS["llama"], attn_implementation="eager")
    plain = training_flops(get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"])))
    base = AutoModelForCausalLM.from_config(CONFIGS["llama"], attn_implementation="eager")
    saved = training_flops(get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])))
    weights = 256 * 64
    assert (plain.per_target, saved.per_target) == (4 * weights, 6 * weights)
    assert plain.per_token == saved.per_token


def test_a_token_is_sent_to_some_experts_only():
    config = MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2)
    model = AutoModelForCausalLM.from_config(config)
    attention = 64 * (64 + 64 + 32 + 32)
    assert training_flops(model).per_token == 6 * 3 * (attention + 2 * 3 * 64 * 96 + 8 * 64)


def test_latent_attention_has_keys_and_values_of_two_widths():
    widths = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "q_lora_rank": 16, "kv_lora_rank": 16}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16}
    config = DeepseekV3Config(**SHAPE, **widths, **experts, first_k_dense_replace=2)
    assert training_flops(AutoModelForCausalLM.from_config(config)).attention == {None: 3 * 3 * 2 * 4 * (24 + 12)}


def test_a_window_ends_what_a_position_sees():
    config = MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=8)
    found = training_flops(AutoModelForCausalLM.from_config(config))
    ((window, each),) = found.attention.items()
    seen = sum(min(8, position + 1) for position in range(20)) + sum(range(1, 6))
    assert (window, each) == (8, 3 * 12 * 64)
    assert found.of([20, 5], 0) == found.per_token * 25 + each * seen


@pytest.mark.parametrize("kinds", [["chunked_attention"] * 3, ["hybrid"] * 3])
def test_a_kind_of_layer_that_nobody_has_counted_has_no_number(kinds: list[str]):
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, num_key_value_heads=2))
    model.config.layer_types = kinds
    assert training_flops(model) is None


def test_a_width_that_differs_between_layers_has_no_number():
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, num_key_value_heads=2))

    class Ambiguous(LlamaConfig):
        def __getattribute__(self, name: str):
            if name == "head_dim":
                raise RuntimeError("not the same in all layers")
            return super().__getattribute__(name)

    model.config.__class__ = Ambiguous
    assert training_flops(model) is None


def test_a_quantised_layer_counts_by_the_weights_that_it_stands_for(project_model: str):
    from transformers import BitsAndBytesConfig

    plain = AutoModelForCausalLM.from_pretrained(project_model)
    four_bit = AutoModelForCausalLM.from_pretrained(project_model, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    adapter = Adapter(adapter="lora", lora_r=4, lora_target_linear=True)
    assert training_flops(lora.attach(plain, adapter)) == training_flops(lora.attach(four_bit, adapter))


@pytest.fixture
def project_model(model_folder) -> str:
    return str(model_folder)
