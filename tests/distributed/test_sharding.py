"""Sharded models in groups of gloo processes: the same run as one process, without a process that holds the model."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig, MixtralConfig

from axolotl_core.models.weights import load_on_cpu
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.training import Training
from tests.distributed import jobs
from tests.distributed.workers import Workers

FULL = Adapter()
SHARDED = {"fsdp": {"fsdp": ["full_shard", "auto_wrap"]}, "zero3": {"deepspeed": "zero3"}}
ADAPTERS = {"full": FULL, "lora": jobs.LORA, "head": jobs.LORA.model_copy(update={"lora_modules_to_save": ["lm_head", "embed_tokens"]})}
KINDS = {"llama": LlamaConfig, "mixtral": MixtralConfig}
PRECISIONS = {
    "fp32": Training(),
    "bf16": Training(bf16=True),
    "bf16 full": Training(bf16="full"),
    "fp16": Training(fp16=True),
}


@pytest.fixture
def one() -> Iterator[Workers]:
    """For a job that fails and leaves its group of processes behind."""
    group = Workers(1)
    yield group
    group.close()


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    group = Workers(2)
    yield group
    group.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Workers]:
    group = Workers(4)
    yield group
    group.close()


def small(folder: Path, dtype: torch.dtype = torch.float32, kind: type = LlamaConfig, **changes) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = kind(**({"vocab_size": 512, "max_position_embeddings": 128} | shape | changes))
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize(
    ("strategy", "precision"), [*(("fsdp", precision) for precision in PRECISIONS), ("zero3", "fp32"), ("zero3", "bf16")]
)
def test_two_processes_train_as_one_does(two: Workers, tmp_path: Path, dtype: torch.dtype, method: str, strategy: str, precision: str):
    folder = small(tmp_path, dtype)
    job = (ADAPTERS[method], PRECISIONS[precision])
    losses, weights = jobs.train(folder, {}, *job)
    (got_losses, got), (_, other) = two.run(jobs.train, folder, SHARDED[strategy], *job)
    assert other == {}, "only rank 0 holds gathered weights"
    assert got_losses == pytest.approx(losses, rel=1e-4 if precision == "fp32" else 2e-2)
    assert got.keys() == weights.keys()
    for name, weight in weights.items():
        assert got[name].shape == weight.shape
        assert got[name].dtype == weight.dtype or strategy == "zero3", "whose weights are in fp32 always"
        difference = float((got[name].float() - weight.float()).abs().max())
        assert difference <= (1e-5 if precision == "fp32" else 6.5e-3), name  # three steps of 1e-3, in the wrong direction at most


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(("start", "dtype"), [("fresh", torch.float32), ("given", torch.float32), ("fresh", torch.bfloat16)])
@pytest.mark.parametrize("strategy", SHARDED)
def test_an_adapter_of_weights_that_no_process_has_yet(
    two: Workers, tmp_path: Path, strategy: str, start: str, kind: str, tied: bool, dtype: torch.dtype
):
    """DoRA's magnitudes are norms of the base's weights; a given adapter brings modules_to_save of its own."""
    folder, given = small(tmp_path / "base", dtype, tie_word_embeddings=tied), tmp_path / "given"
    changes = {"peft_use_dora": kind == "dora", "lora_modules_to_save": ["embed_tokens"] if tied else ["lm_head", "embed_tokens"]}
    adapter = jobs.LORA.model_copy(update=changes | {"lora_dropout": 0.0})
    if start == "given":
        jobs.save_adapter(folder, adapter, given)
    job = (adapter, Training(), 3, given if start == "given" else None)
    losses, weights = jobs.train(folder, {}, *job)
    (got_losses, got), _ = two.run(jobs.train, folder, SHARDED[strategy], *job)
    assert got_losses == pytest.approx(losses, rel=1e-4 if dtype == torch.float32 else 5e-3)
    assert got.keys() == weights.keys()
    assert any("magnitude" in name for name in got) == (kind == "dora")
    for name, weight in weights.items():
        assert torch.allclose(got[name], weight, atol=1e-5 if dtype == torch.float32 else 2e-3), name


@pytest.mark.parametrize("strategy", SHARDED)
def test_an_adapter_that_brings_embeddings_of_more_rows(two: Workers, tmp_path: Path, strategy: str):
    """They are not trained, and not the base's either."""
    folder, given = small(tmp_path / "base"), tmp_path / "given"
    adapter = jobs.LORA.model_copy(update={"lora_dropout": 0.0})
    jobs.save_adapter(folder, adapter, given, vocabulary=544)
    job = (adapter, Training(), 3, given, 544)
    losses, weights = jobs.train(folder, {}, *job)
    (got_losses, got), _ = two.run(jobs.train, folder, SHARDED[strategy], *job)
    assert got_losses == pytest.approx(losses, rel=1e-4)
    assert all(torch.allclose(got[name], weight, atol=1e-5) for name, weight in weights.items())


def test_dora_where_the_linear_modules_themselves_are_sharded(two: Workers, tmp_path: Path):
    folder = small(tmp_path)
    job = (jobs.LORA.model_copy(update={"peft_use_dora": True, "lora_dropout": 0.0}), Training())
    losses, weights = jobs.train(folder, {}, *job)
    settings = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": "Linear"}}
    got_losses, got = two.run(jobs.train, folder, settings, *job)[0]
    assert got_losses == pytest.approx(losses, rel=1e-4)
    assert all(torch.allclose(got[name], weight, atol=1e-5) for name, weight in weights.items())


@pytest.mark.parametrize("strategy", SHARDED)
def test_a_base_of_fp8_is_not_sharded_without_its_scales(one: Workers, tmp_path: Path, strategy: str):
    folder = small(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(AssertionError, match=r"its weights are quantised \(fp8\)"):
        one.run(jobs.filled, folder, SHARDED[strategy], FULL, 0)


@pytest.mark.parametrize("settings", [{}, SHARDED["fsdp"]], ids=["ddp", "fsdp"])
def test_the_others_wait_while_rank_0_writes(two: Workers, tmp_path: Path, settings: dict):
    assert two.run(jobs.written_slowly, small(tmp_path / "base"), settings, tmp_path / "out") == [["model.safetensors"]] * 2


@pytest.mark.parametrize("settings", [{"fsdp": ["shard_grad_op"]}, {"fsdp": True, "fsdp_config": {"offload_params": True}}])
def test_every_setting_trains_to_the_same_weights(four: Workers, tmp_path: Path, settings: dict):
    folder = small(tmp_path)
    losses, weights = jobs.train(folder, {}, FULL, Training())
    got_losses, got = four.run(jobs.train, folder, settings, FULL, Training())[0]
    assert got_losses == pytest.approx(losses, rel=1e-4)
    assert all(torch.allclose(got[name], weight, atol=1e-5) for name, weight in weights.items())


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", ["HYBRID_SHARD", "HYBRID_SHARD_ZERO2"])
def test_machines_that_have_a_model_each(two: Workers, four: Workers, tmp_path: Path, name: str, method: str):
    folder, run = small(tmp_path / "base"), tmp_path / "run"
    hybrid = {"fsdp": True, "fsdp_config": {"sharding_strategy": name}}
    losses, weights = jobs.train(folder, {}, ADAPTERS[method], Training(), 4)
    begun = four.run(jobs.on_machines_of, 2, jobs.resumed, folder, hybrid, ADAPTERS[method], Training(), run, 0, 2)
    files = sorted((run / "step-2").glob("shard-*.safetensors"))
    numbers = [sum(tensor.numel() for tensor in load_file(file).values()) for file in files]
    trained = sum(weight.numel() for weight in weights.values())
    assert sum(numbers) == 3 * trained, "weights and Adam's two states, once"
    assert numbers[0] == pytest.approx(1.5 * trained, rel=0.1), "a half of a model in each process"
    same = four.run(jobs.on_machines_of, 2, jobs.resumed, folder, hybrid, ADAPTERS[method], Training(), run, 2, 4)[0]
    other = two.run(jobs.resumed, folder, SHARDED["fsdp"], ADAPTERS[method], Training(), run, 2, 4)[0]
    for got_losses, got in (same, other):
        assert begun[0][0] + got_losses == pytest.approx(losses, rel=1e-4)
        assert all(torch.allclose(got[name], weight, atol=1e-5) for name, weight in weights.items())


@pytest.mark.parametrize("on_machine", [[2, 2, 1, 1], [3, 3, 3, 1], [1, 1, 1, 1]], ids=str)
def test_machines_of_unlike_numbers_of_processes_share_one_model(four: Workers, tmp_path: Path, on_machine: list[int]):
    for sharded_over, (note,) in four.run(jobs.sharing, small(tmp_path), on_machine):
        assert sharded_over == 4
        assert "HYBRID_SHARD requires as many processes on each machine" in note


def test_a_process_that_dies_is_told_and_made_again():
    workers = Workers(2)
    with pytest.raises(AssertionError, match="rank 1: it ended without an answer"):
        workers.run(jobs.dies, 1)
    assert workers.run(os.getenv, "RANK") == ["0", "1"]
    workers.close()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("vocabulary", [512, 544])
@pytest.mark.parametrize("strategy", SHARDED)
def test_the_weights_are_those_of_a_model_that_is_loaded_whole(
    two: Workers, tmp_path: Path, tied: bool, method: str, vocabulary: int, strategy: str
):
    folder = small(tmp_path, tie_word_embeddings=tied)
    wanted = jobs.filled(folder, {}, ADAPTERS[method], vocabulary)
    got = two.run(jobs.filled, folder, SHARDED[strategy], ADAPTERS[method], vocabulary)[0]
    assert got.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == []


@pytest.mark.parametrize("strategy", SHARDED)
def test_weights_that_transformers_renames_come_through_it(two: Workers, tmp_path: Path, strategy: str):
    folder = small(tmp_path, kind=MixtralConfig, num_local_experts=4, num_experts_per_tok=2)
    wanted = jobs.filled(folder, {}, FULL, 0)
    got = two.run(jobs.filled, folder, SHARDED[strategy], FULL, 0)[0]
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == []


def test_experts_below_an_adapter_and_parts_that_stay_in_fp32(two: Workers, tmp_path: Path):
    """peft wraps fused experts twice; the bias of DeepSeek's router is never rounded."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1}
    heads = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
    shape = {"first_k_dense_replace": 1, "num_key_value_heads": 4, **experts, **heads}
    folder = small(tmp_path, torch.bfloat16, DeepseekV3Config, **shape)
    adapter = jobs.LORA.model_copy(update={"lora_dropout": 0.0})
    wanted = jobs.filled(folder, {}, adapter, 0)
    got = two.run(jobs.filled, folder, SHARDED["fsdp"], adapter, 0)[0]
    assert any("experts" in name for name in wanted)
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == []
    assert {name: value.dtype for name, value in got.items()} == {name: value.dtype for name, value in wanted.items()}


def test_a_weight_of_another_shape_than_the_config_says_is_told(one: Workers, tmp_path: Path):
    folder = small(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(AssertionError, match=r"has the shape \(.*, wanted \(.* as config.json says"):
        one.run(jobs.filled, folder, SHARDED["fsdp"], FULL, 0)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_no_gathered_weight_is_kept_for_the_backward_pass(two: Workers, tmp_path: Path, method: str):
    folder = small(tmp_path, num_hidden_layers=6, num_key_value_heads=4)  # no weight is as tall as a row is long
    assert jobs.kept_after_forward(folder, {}, ADAPTERS[method]) > 0, "one process keeps what autocast has cast"
    assert two.run(jobs.kept_after_forward, folder, SHARDED["fsdp"], ADAPTERS[method]) == [0, 0]


@pytest.mark.parametrize(("ranks", "kind"), [(2, "llama"), (4, "llama"), (2, "mixtral")])
@pytest.mark.parametrize("strategy", SHARDED)
def test_a_process_holds_its_part_and_a_layer_at_most(request: pytest.FixtureRequest, tmp_path: Path, ranks: int, strategy: str, kind: str):
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 8}
    if kind == "mixtral":  # whose files have other names, so that its weights are converted when they are read
        wide |= {"intermediate_size": 2048, "num_local_experts": 2}
    folder = small(tmp_path, kind=KINDS[kind], num_hidden_layers=8, **wide)
    weights = (folder / "model.safetensors").stat().st_size
    layer = 4 * (4 * 1024**2 + 3 * 1024 * 4096)
    workers: Workers = request.getfixturevalue({2: "two", 4: "four"}[ranks])
    workers.run(jobs.peak_of_loading, small(tmp_path / "warm"), SHARDED[strategy], jobs.LORA)  # what the first model imports and allocates
    peaks = workers.run(jobs.peak_of_loading, folder, SHARDED[strategy], jobs.LORA)
    slack = 48 * 2**20  # of the allocator, and of the small model that packing is tried on
    assert max(peaks[1:]) < weights / ranks + layer + slack
    assert peaks[0] < weights / ranks + 2 * layer + slack, "and what it reads"


@pytest.mark.parametrize(
    ("strategy", "kind", "dtype"),
    [
        ("fsdp", "mixtral", torch.float32),
        ("fsdp", "llama", torch.bfloat16),
        ("zero3", "llama", torch.float32),
        ("zero3", "mixtral", torch.bfloat16),
    ],
)
def test_a_model_is_written_without_all_of_it_in_one_process(two: Workers, tmp_path: Path, strategy: str, kind: str, dtype: torch.dtype):
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8}
    experts = {"num_local_experts": 2} if kind == "mixtral" else {}
    folder = small(tmp_path / "base", dtype, KINDS[kind], num_hidden_layers=24, **wide, **experts)
    two.run(jobs.peak_of_writing, small(tmp_path / "warm"), SHARDED[strategy], tmp_path / "ignored")
    peaks = two.run(jobs.peak_of_writing, folder, SHARDED[strategy], tmp_path / "out")
    wanted = load_on_cpu(folder)
    weights = sum(parameter.numel() for parameter in wanted.parameters())
    layer = 4 * weights // 24
    bound = 2 * 16 * 2**20 + 3 * layer + 48 * 2**20  # a file, a layer of the model and of the file, what the allocator keeps
    assert max(peaks) < bound < 4 * weights * 0.6
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 8
    got = load_on_cpu(tmp_path / "out")
    assert got.dtype == dtype
    kept = dtype if strategy == "fsdp" else torch.bfloat16  # DeepSpeed makes its fp32 weights from those of the forward pass
    assert all(torch.equal(got.get_parameter(name), parameter.to(kept).to(dtype)) for name, parameter in wanted.named_parameters())
