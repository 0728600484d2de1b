"""Weights by the names of parameters: families whose files have other names, a layer at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV4Config,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen3MoeConfig,
)

from axolotl_core.errors import ModelError
from axolotl_core.models import conversion
from axolotl_core.models.conversion import ParameterWeights, rewrite_parameters, write_model
from axolotl_core.models.shape import model_on_meta
from axolotl_core.models.weights import INDEX, load_on_cpu, weight_files

SIZE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
COMPRESSED = {"head_dim": 16, "q_lora_rank": 16, "o_lora_rank": 16, "o_groups": 2, "partial_rotary_factor": 0.5}
COMPRESSED |= {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 2}
FAMILIES = {
    "llama": LlamaConfig(**SIZE),
    "gpt2": GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "gemma2": Gemma2Config(**SIZE, head_dim=8),
    "gpt_neox": GPTNeoXConfig(**{**SIZE, "num_key_value_heads": None}),
    "mixtral": MixtralConfig(**SIZE, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**SIZE, **EXPERTS, num_experts=4),
    "olmoe": OlmoeConfig(**SIZE, num_experts=4, num_experts_per_tok=2),
    "granitemoe": GraniteMoeConfig(**SIZE, num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": GptOssConfig(**SIZE, num_local_experts=4, num_experts_per_tok=2, head_dim=8),
    "deepseek_v4": DeepseekV4Config(
        **SIZE | {"num_key_value_heads": 1, "num_hidden_layers": 3},
        **EXPERTS,
        **COMPRESSED,
        n_routed_experts=4,
        num_nextn_predict_layers=0,
        layer_types=["heavily_compressed_attention", "compressed_sparse_attention", "compressed_sparse_attention"],
        mlp_layer_types=["hash_moe", "moe", "moe"],
    ),
    "deepseek_v3": DeepseekV3Config(
        **SIZE, **EXPERTS, **LATENT, n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1, num_nextn_predict_layers=0
    ),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}


def saved(family: str, dtype: torch.dtype, out: Path) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], dtype=dtype)
    model.save_pretrained(out)
    model = load_on_cpu(out)  # which keeps some weights in fp32
    model.save_pretrained(out)
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_read_and_written_as_transformers_does(family: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, out, few = tmp_path / "base", tmp_path / "out", tmp_path / "few"
    model = saved(family, DTYPES[dtype], base)
    names = [name for name, _ in model.named_parameters()]
    weights = ParameterWeights(base, names)
    assert bool(weights.converted) == (not set(names) <= stored(base).keys())
    for name, parameter in model.named_parameters():
        found = weights.read(name)
        assert found.dtype == parameter.dtype, name
        assert torch.equal(found, parameter), name
    everything = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers()) if n in model.state_dict()}
    layout = {name: tensor.to("meta") for name, tensor in everything.items()}
    for folder, size in ((out, "5GB"), (few, "20KB")):
        folder.mkdir()
        monkeypatch.setattr(conversion, "SHARD", size)
        write_model(model, folder, layout, everything.items())
        assert stored(folder).keys() == stored(base).keys()
        assert all(torch.equal(tensor, stored(base)[name]) for name, tensor in stored(folder).items())
        assert (folder / "config.json").read_text() == (base / "config.json").read_text()
    assert (out / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert (few / INDEX).is_file()
    assert len(weight_files(few)) > 2
    again = load_on_cpu(few)
    assert all(torch.equal(again.get_parameter(name), tensor) for name, tensor in model.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_replaced_by_their_names(family: str, tmp_path: Path):
    base, out = tmp_path / "base", tmp_path / "out"
    out.mkdir()
    model = saved(family, torch.bfloat16, base)
    changed = {name for name, parameter in model.named_parameters() if parameter.ndim > 1 and ".1." in name}

    def change(name: str, old: Tensor) -> Tensor:
        return old.float() * 2 if name in changed else old

    rewrite_parameters(base, out, change)
    again = load_on_cpu(out)
    for name, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter * (2 if name in changed else 1)), name
    assert {name: tensor.dtype for name, tensor in stored(out).items()} == {name: tensor.dtype for name, tensor in stored(base).items()}
    assert (out / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()


def test_a_buffer_is_read_without_its_layer_and_no_layer_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, out = tmp_path / "base", tmp_path / "out"
    out.mkdir()
    model = saved("deepseek_v3", torch.bfloat16, base)
    names = [name for name, _ in model.named_parameters()]
    weights, read = ParameterWeights(base, names), []
    monkeypatch.setattr(ParameterWeights, "_convert", lambda *_: read.append(1))
    for name, buffer in model.named_buffers():
        if name in weights.names:
            assert torch.equal(weights.read(name), buffer), name
    assert not read
    monkeypatch.undo()
    layers: list[set[str]] = []
    plain = conversion.revert_weight_conversion
    monkeypatch.setattr(conversion, "revert_weight_conversion", lambda model, some: layers.append(set()) or plain(model, some))
    rewrite_parameters(base, out, lambda name, old: layers[-1].add(conversion.layer_of(name)) or old)
    assert max(map(len, layers)) == 1, "each layer is written before the next is read"


@pytest.mark.parametrize("named", [True, False])
def test_a_base_is_rewritten_in_the_dtype_that_it_is_loaded_in(tmp_path: Path, named: bool):
    base, out = tmp_path / "base", tmp_path / "out"
    out.mkdir()
    saved("mixtral", torch.bfloat16, base)
    if not named:
        config = json.loads((base / "config.json").read_text())
        del config["dtype"]
        (base / "config.json").write_text(json.dumps(config))
    rewrite_parameters(base, out, lambda _, old: old)
    assert {tensor.dtype for tensor in stored(out).values()} == {torch.bfloat16}


def test_a_tied_weight_that_is_stored_under_its_other_name(tmp_path: Path):
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZE, tie_word_embeddings=True))
    model.save_pretrained(base)
    weights = stored(base)
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    found = ParameterWeights(base, [name for name, _ in model.named_parameters()])
    assert torch.equal(found.read("model.embed_tokens.weight"), model.get_input_embeddings().weight)
    assert torch.equal(found.read("lm_head.weight"), model.get_input_embeddings().weight)


def test_a_weight_that_the_files_lack_cannot_be_read(tmp_path: Path):
    saved("mixtral", torch.float32, tmp_path)
    weights = stored(tmp_path)
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = ParameterWeights(tmp_path, [name for name, _ in model_on_meta(tmp_path).named_parameters()])
    assert "model.layers.1.self_attn.k_proj.weight" in found.names
    with pytest.raises(ModelError, match=r"holds no weight called model\.layers\.1\.self_attn\.q_proj\.weight"):
        found.read("model.layers.1.self_attn.q_proj.weight")
