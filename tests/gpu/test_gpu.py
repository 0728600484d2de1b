"""On a real GPU, through the real stages: make test-gpu. Skipped with one line where there is none."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from axolotl_core import lookup
from axolotl_core.adapters import lora, trained
from axolotl_core.adapters.trained import load_trained
from axolotl_core.artifacts.manifest import artifact_digest
from axolotl_core.attention.choose import KINDS, why_not
from axolotl_core.distributed.start import start_strategy
from axolotl_core.kernels.choose import LAYERS, LOSSES
from axolotl_core.models import spread
from axolotl_core.models.forward import ForwardSpec
from axolotl_core.models.load import load_model, need_of
from axolotl_core.models.packing import packing_support
from axolotl_core.models.precision import choose
from axolotl_core.models.self_test import difference, self_test, small_model
from axolotl_core.objectives.cross_entropy import chunk_body, kernel_difference, loss_and_slope
from axolotl_core.objectives.sft import Objective
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.training import Training
from axolotl_core.training.step import train_step
from tests.attention.families import FAMILIES, config_of
from tests.conftest import LORA, REPOSITORY, edit, stage
from tests.rows_in_memory import LENGTHS, source

if not torch.cuda.is_available():
    pytest.skip("no GPU on this machine", allow_module_level=True)

MUST_FIT = {"gemma2": {"flex_attention"}, "gpt_oss": {"flex_attention"}, "": {"flex_attention", "varlen", "sdpa"}}
"""Family → kinds that every GPU from Ampere on has."""
METHODS = {
    "full": ("training.learning_rate=1e-3",),
    "lora": (),
    "qlora": ("adapter.adapter=qlora", "model.load_in_4bit=true"),
    "8bit": ("model.load_in_8bit=true",),
    "relora": ("adapter.relora_steps=5", "adapter.relora_warmup_steps=1"),
}


@pytest.fixture
def base(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random llama in bf16, wide enough that kernels differ from those of a toy."""
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")  # axolotl need not be installed
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    shutil.rmtree(project / "model")
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(project / "model")
    tokenizer.save_pretrained(project / "model")
    return project


def metrics(project: Path) -> dict:
    return json.loads((project / "artifacts" / "metrics" / "train.json").read_text())


def logits(model) -> torch.Tensor:
    ids = torch.tensor([[1, 40, 50, 60, 70, 80, 90]])
    with torch.no_grad():
        return model.eval()(ids).logits.float()


def command(name: str, options: Sequence[str]) -> list[str]:
    """`axolotl stage`, to be run in a process of its own: torchrun's handlers of signals do not get on with compiled tests."""
    words = [word for option in options for word in ("--set", option)]
    return [sys.executable, "-c", "from axolotl_core.cli.main import main; main()", "stage", name, *words]


def forget_training(project: Path) -> None:
    """What was trained, wherever it could be restored from."""
    for folder in (".axolotl/runs", ".axolotl/store", "artifacts/adapter"):
        shutil.rmtree(project / folder)


def full(project: Path) -> None:
    edit(project / "params.yaml", LORA, "  adapter:\n")


@pytest.mark.parametrize("method", METHODS)
def test_a_base_of_bf16_is_trained_exported_and_evaluated(base: Path, method: str, capsys):
    if method == "full":
        full(base)
    stage("export", *METHODS[method])
    stage("evaluate", *METHODS[method])
    found = metrics(base)
    assert (found["precision"], found["attention"]) == ("bf16", "varlen")
    assert found["eval_loss_after"] < found["eval_loss_before"] - 1
    if method in ("full", "relora"):
        assert found["rounding"]["loss_after"] == pytest.approx(found["rounding"]["loss_before"], abs=0.05)
    report = json.loads((base / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(found["eval_loss_after"], abs=0.1)
    exported = AutoModelForCausalLM.from_pretrained(base / "artifacts" / "export")
    assert exported.dtype == torch.bfloat16
    if method == "lora":
        plain = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
        trained = lora.apply(plain, base / "artifacts" / "adapter")
        wanted, effect = logits(trained), logits(AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32))
        got = logits(AutoModelForCausalLM.from_pretrained(base / "artifacts" / "export", dtype=torch.float32))
        assert (got - wanted).abs().max() < 0.1 * (effect - wanted).abs().max()


@pytest.mark.parametrize(
    "options",
    [
        ("training.fp16=true",),
        ("training.bf16=full",),
        ("machine.gradient_checkpointing=true",),
        ("machine.gradient_checkpointing=selective",),
        ("machine.gradient_checkpointing=offload",),
        ("machine.activation_offloading=true",),
        ("machine.torch_compile=true", "packing.pad_to_sequence_len=true"),
        ("machine.torch_compile=true", "machine.gradient_checkpointing=true"),
        ("machine.flex_attention=true",),
        ("machine.sdp_attention=true",),
        ("machine.liger_rms_norm=true", "machine.liger_rope=true", "machine.liger_glu_activation=true"),
        ("machine.liger_fused_linear_cross_entropy=true",),
        ("machine.cut_cross_entropy=true",),
    ],
    ids=str,
)
def test_options_train(base: Path, options: tuple):
    stage("train", "machine.allow_fallback=false", *options)
    assert metrics(base)["eval_loss_after"] < metrics(base)["eval_loss_before"] - 1


SHARDED = {
    "fsdp": ("machine.fsdp=true",),
    "fsdp-fp16": ("machine.fsdp=true", "training.fp16=true"),
    "fsdp-offload": ("machine.fsdp=[full_shard, offload]",),
    "zero2": ("machine.deepspeed=zero2",),
    "zero3": ("machine.deepspeed=zero3",),
}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("strategy", SHARDED)
def test_what_is_trained_in_shards_is_written_exported_and_evaluated(base: Path, strategy: str, method: str):
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    if method == "full":
        full(base)
    options = (*METHODS[method], *SHARDED[strategy], "machine.num_processes=1", "machine.allow_fallback=false")
    subprocess.run(command("evaluate", options), check=True)
    stage("export", *options)
    found = metrics(base)
    assert found["eval_loss_after"] < found["eval_loss_before"] - 1
    report = json.loads((base / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(found["eval_loss_after"], abs=0.1)
    assert AutoModelForCausalLM.from_pretrained(base / "artifacts" / "export").dtype == torch.bfloat16


def processes(folder: Path, count: int, options: Sequence[str], machines: int = 1) -> None:
    """`axolotl stage train` in so many processes that share this GPU: NCCL takes each for a machine of its own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count // machines), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    network = {"MASTER_PORT": str(port), "NCCL_SOCKET_IFNAME": "lo", "NCCL_NET": "Socket", "NCCL_IB_DISABLE": "1"}
    begun = []
    for rank in range(count):
        environment = {**os.environ, **shared, **network, "RANK": str(rank), "NCCL_HOSTID": f"machine-{rank}"}
        begun.append(
            subprocess.Popen(
                command("train", options), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    told = [process.communicate(timeout=240)[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * count, "\n".join(text[-3000:] for text in told)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    ("options", "count", "machines"),
    [
        ((), 2, 1),
        (("machine.fsdp=true",), 2, 1),
        (("machine.fsdp=[full_shard, offload]",), 2, 1),
        (("machine.fsdp=true", "machine.fsdp_config={fsdp_sharding_strategy: HYBRID_SHARD}"), 4, 2),
        (("machine.deepspeed=zero2",), 2, 1),
        (("machine.deepspeed=zero3",), 2, 1),
    ],
    ids=str,
)
def test_several_processes_train_as_one_over_nccl(base: Path, method: str, options: tuple, count: int, machines: int):
    if "deepspeed" in str(options):
        pytest.importorskip("deepspeed")
    if method == "full":
        full(base)
    always = ("training.batch_size=4", "adapter.lora_dropout=0", "training.learning_rate=1e-3")
    stage("train", *always)
    wanted = metrics(base)
    forget_training(base)
    processes(base, count, (*always, *options), machines)
    found = metrics(base)
    assert found["eval_loss_before"] == pytest.approx(wanted["eval_loss_before"], rel=1e-3)
    assert found["eval_loss_after"] == pytest.approx(wanted["eval_loss_after"], rel=0.03)


def test_a_step_never_waits_for_the_device(base: Path, tmp_path: Path):
    device, training = torch.device("cuda", 0), Training(bf16=True)
    machine, precision = Machine(), choose(training, Model(base_model="x"), device, full=True)
    loaded = load_model(base / "model", machine, vocabulary=0, packed=True, dtype=precision.trained, autocast=precision.autocast)
    strategy = start_strategy(machine, precision, tmp_path, device=device, max_grad_norm=1.0, model=loaded.model)
    objective = Objective(loaded.model, loaded.spec, strategy.autocast).train()
    strategy.prepare(objective, lambda: make_optimizer(loaded.model.named_parameters(), training, Adapter()))
    for step in range(1, 5):
        torch.cuda.set_sync_debug_mode("error" if step > 2 else "default")  # the first ones compile
        try:
            train_step(strategy, source(LENGTHS), [0, 1, 2], step=step, seed=0, micro_batch_size=2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    strategy.close()


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("strategy", ["", *SHARDED])
def test_a_run_that_was_interrupted_ends_with_the_same_bytes(base: Path, method: str, strategy: str):
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    if method == "full":
        full(base)
    sharded = (*SHARDED[strategy], "machine.num_processes=1") if strategy else ()
    options = ("training.num_epochs=12", "training.learning_rate=1e-3", "tracking.save_steps=7", *sharded)
    subprocess.run(command("train", options), check=True)
    wanted = artifact_digest(base / "artifacts" / "adapter")
    losses = (base / "artifacts" / "plots" / "eval.csv").read_text()
    forget_training(base)
    process = subprocess.Popen(command("train", options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not any(base.glob(".axolotl/runs/*/step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[0]
    assert process.returncode == 75, told
    subprocess.run(command("train", options), check=True)
    assert (base / "artifacts" / "plots" / "eval.csv").read_text() == losses
    assert artifact_digest(base / "artifacts" / "adapter") == wanted


@pytest.mark.parametrize("kind", [kind for kind in lookup.names(KINDS) if kind != "eager"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_kind_that_fits_equals_eager(family: str, kind: str):
    """Logits and gradients under bf16 autocast, as in training, and in bf16; what does not fit says why."""
    device = torch.device("cuda")
    if reason := why_not(kind, need_of(config_of(family), device, torch.bfloat16, packed=True)):
        assert kind not in MUST_FIT.get(family, MUST_FIT[""]), reason
        pytest.skip(f"{kind}: {reason}")
    for dtype, autocast in ((torch.float32, torch.bfloat16), (torch.bfloat16, None)):
        model = small_model(config_of(family, head_dim=64), kind, device, dtype)
        assert model is not None
        model.config.use_cache = False
        self_test(model, ForwardSpec(packing_support(model.config).method or "positions"), autocast, backward=True)


@pytest.mark.parametrize("table", [LAYERS, LOSSES])
def test_kernels_that_fit_give_what_pytorch_gives(table: str):
    device = torch.device("cuda")
    for name in lookup.names(table):
        kernel = lookup.find(table, name, "kernel")
        for dtype in (torch.float32, torch.bfloat16):
            model = small_model(config_of("llama", head_dim=64), "sdpa", device, dtype)
            assert model is not None
            model.config.use_cache = False
            if kernel.fits(need_of(model.config, device, dtype, packed=True)):
                continue
            if table == LOSSES:
                assert kernel_difference(model, None, device, kernel.loss_sum) is None, name
            else:
                replaced: list = []
                assert difference(model, ForwardSpec(), None, lambda: replaced.extend(kernel.replace(model, device))) is None, name  # noqa: B023
                assert replaced, name


def test_the_output_layers_body_is_compiled():
    assert chunk_body("cuda") is not loss_and_slope


def test_a_model_that_does_not_fit_its_gpu_says_the_same(base: Path, monkeypatch: pytest.MonkeyPatch):
    stage("train")
    settings = {"vocabulary": 1, "packed": False, "quantise": Model(base_model="./model")}

    def loaded():
        return load_trained(base / "artifacts" / "adapter", base / "model", Machine(), **settings)

    whole = loaded().model.eval()
    ids = torch.tensor([[1, 40, 50, 60]], device="cuda")
    with torch.no_grad():
        wanted = whole(ids).logits
    size = sum(parameter.nbytes for parameter in whole.parameters())
    monkeypatch.setattr(trained, "needs_spreading", lambda *_: True)
    monkeypatch.setattr(spread, "get_max_memory", lambda: {0: size * 2 // 3, "cpu": 2**36})
    parts = loaded()
    assert {str(place) for place in parts.model.hf_device_map.values()} == {"0", "cpu"}
    assert parts.notes == ("the model does not fit one GPU, it is on GPU 0, cpu",)
    with torch.no_grad():
        assert torch.equal(parts.model.eval()(ids).logits, wanted)


def test_packed_rows_change_no_loss(base: Path):
    found = []
    for packed in ("true", "false"):
        stage("train", "training.max_steps=1", f"packing.eval_sample_packing={packed}", "training.learning_rate=1e-6")
        found.append(metrics(base)["eval_loss_before"])
    assert found[0] == pytest.approx(found[1], rel=1e-2)
