"""What a base's dtype, a method of training and a family do to each other, through the real stages to the exported folder and back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DeepseekV3Config,
    Gemma2Config,
    GPTNeoXConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from axolotl_core.errors import ModelError
from axolotl_core.models.weights import weight_files
from tests.conftest import LORA, edit, stage

SIZE = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SPECIAL = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZE, **SPECIAL, num_key_value_heads=2, initializer_range=0.2),
    "gpt_neox": GPTNeoXConfig(**SIZE, **SPECIAL, initializer_range=0.2),
    "mixtral": MixtralConfig(**SIZE, **SPECIAL, num_key_value_heads=2, num_local_experts=4, initializer_range=0.2),
    "gemma2": Gemma2Config(**SIZE, **SPECIAL, num_key_value_heads=2, head_dim=8, initializer_range=0.2, tie_word_embeddings=True),
}
"""gpt_neox and mixtral have other names in their files than in memory; gemma2's embeddings are its output layer."""
MIXTURES: dict[str, PreTrainedConfig] = {
    "qwen2_moe": Qwen2MoeConfig(
        **SIZE, **SPECIAL, num_key_value_heads=2, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=32
    ),
    "qwen3_moe": Qwen3MoeConfig(**SIZE, **SPECIAL, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2),
    "olmoe": OlmoeConfig(**SIZE, **SPECIAL, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2),
    "granitemoe": GraniteMoeConfig(**SIZE, **SPECIAL, num_key_value_heads=2, num_local_experts=4),
    "deepseek_v3": DeepseekV3Config(
        **SIZE,
        **SPECIAL,
        num_key_value_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        moe_intermediate_size=16,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=1,
    ),
}
METHODS = {
    "full": ("training.learning_rate=2e-3",),
    "lora": (),
    "qlora": ("adapter.adapter=qlora", "model.load_in_4bit=true"),
    "relora": ("adapter.relora_steps=3", "adapter.relora_warmup_steps=1"),
}
IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 11, 12, 13]])


def base(project: Path, family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    shutil.rmtree(project / "model")
    model = AutoModelForCausalLM.from_config((FAMILIES | MIXTURES)[family], dtype=dtype)
    model.save_pretrained(project / "model")
    tokenizer.save_pretrained(project / "model")


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(IDS).logits


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_is_trained_exported_and_loaded_again(project: Path, family: str, dtype: torch.dtype, method: str, capsys):
    base(project, family, dtype)
    if method == "full":
        edit(project / "params.yaml", LORA, "  adapter:\n")
    options = (*METHODS[method], "training.max_steps=8", f"training.bf16={'true' if dtype == torch.bfloat16 else 'false'}")
    stage("export", *options)
    stage("evaluate", *options)
    exported = project / "artifacts" / "export"
    before, after = tensors(project / "model"), tensors(exported)
    assert {name: t.shape for name, t in after.items()} == {name: t.shape for name, t in before.items()}
    assert {t.dtype for t in after.values()} == {dtype}
    assert any(not torch.equal(after[name], before[name]) for name in before)
    metrics = json.loads((project / "artifacts" / "metrics" / "train.json").read_text())
    assert metrics["eval_loss_after"] < metrics["eval_loss_before"]
    if method in ("full", "relora") and dtype != torch.float32:
        assert metrics["rounding"]["loss_after"] == pytest.approx(metrics["rounding"]["loss_before"], abs=0.1)
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(metrics["eval_loss_after"], abs=0.1)
    assert (logits(exported) - logits(project / "model")).abs().max() > 0.05
    again = stage("merge", *options)
    assert again == 0


@pytest.mark.parametrize("method", ["full", "lora", "relora"])
@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_of_experts_that_is_renamed_on_saving_is_written_whole(project: Path, family: str, method: str):
    base(project, family, torch.float32)
    if method == "full":
        edit(project / "params.yaml", LORA, "  adapter:\n")
    options = (*METHODS[method], "training.max_steps=4", *(("adapter.lora_dropout=0.0",) if method != "full" else ()))
    if (family, method) == ("deepseek_v3", "relora"):
        with pytest.raises(ModelError, match=r"relora_steps: .*experts.* is not a linear layer, and only those are merged; name others in"):
            stage("export", *options)
        return
    stage("export", *options)
    before, after = tensors(project / "model"), tensors(project / "artifacts" / "export")
    assert {name: t.shape for name, t in after.items()} == {name: t.shape for name, t in before.items()}
    assert (logits(project / "artifacts" / "export") - logits(project / "model")).abs().max() > 1e-3


def test_names_that_transformers_gives_are_merged_and_restarted_by_them(project: Path, capsys):
    """gpt_neox's output layer is embed_out in its files and lm_head in memory."""
    base(project, "gpt_neox", torch.bfloat16)
    edit(project / "params.yaml", "  lora_target_linear: true\n", "  lora_target_modules: [query_key_value, lm_head]\n")
    for method in ("lora", "relora"):
        stage("export", *METHODS[method], "training.max_steps=8", "training.bf16=true")
        before, after = tensors(project / "model"), tensors(project / "artifacts" / "export")
        assert {name: (t.shape, t.dtype) for name, t in after.items()} == {name: (t.shape, t.dtype) for name, t in before.items()}
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {"embed_out.weight", *(name for name in before if name.endswith("query_key_value.weight"))}
    assert "merged in memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("family", "method", "machine"), [("gpt_neox", "full", "zero3"), ("mixtral", "full", "ddp"), ("gemma2", "relora", "ddp")]
)
def test_two_processes_write_what_one_does_of_a_base_of_sixteen_bits(project: Path, axolotl, family: str, method: str, machine: str):
    base(project, family, torch.bfloat16)
    if method == "full":
        edit(project / "params.yaml", LORA, "  adapter:\n")
    edit(project / "params.yaml", "  lora_dropout: 0.1\n", "  lora_dropout: 0.0\n") if method != "full" else None
    options = (*METHODS[method], "training.max_steps=4")
    stage("export", *options)
    one, was = logits(project / "artifacts" / "export"), logits(project / "model")
    words = [word for option in (*options, "machine.num_processes=2") for word in ("--set", option)]
    words += ["--set", f"machine.deepspeed={machine}"] if machine.startswith("zero") else []
    axolotl("stage", "train", "--force", *words, cwd=project)
    axolotl("stage", "export", *words, cwd=project)
    two = logits(project / "artifacts" / "export")
    assert (two - one).abs().max() < 0.2 * (was - one).abs().max()


def test_relora_of_a_model_with_new_tokens_is_a_model_that_loads(project: Path):
    tokens = ", ".join(f"<frog{number}>" for number in range(150))
    edit(project / "params.yaml", "tokenizer: {}", f"tokenizer: {{tokens: [{tokens}]}}")
    options = ("adapter.relora_steps=2", "training.max_steps=4", "adapter.lora_modules_to_save=[embed_tokens, lm_head]")
    stage("export", *options, "model.resize_token_embeddings_to_32x=true")
    again = AutoModelForCausalLM.from_pretrained(project / "artifacts" / "export")
    assert again.get_input_embeddings().num_embeddings == again.config.vocab_size > 512


@pytest.mark.parametrize("method", ["lora", "relora", "full"])
def test_a_base_whose_files_are_narrower_than_its_config_says(project: Path, method: str):
    """transformers loads what config.json says, and that is what is written."""
    base(project, "llama", torch.bfloat16)
    config = project / "model" / "config.json"
    config.write_text(config.read_text().replace('"bfloat16"', '"float32"'))
    if method == "full":
        edit(project / "params.yaml", LORA, "  adapter:\n")
    stage("export", *METHODS[method], "training.max_steps=4")
    assert AutoModelForCausalLM.from_pretrained(project / "artifacts" / "export").dtype == torch.float32
