"""What a launcher or a scheduler leaves in the environment changes nothing; the end of one process is the end of all."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from axolotl_core import world
from axolotl_core.artifacts.manifest import artifact_digest
from axolotl_core.checkpoints import store
from axolotl_core.distributed import environment
from axolotl_core.errors import TrainError
from tests.conftest import REPOSITORY, stage

HOSTILE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_GRADIENT_CLIPPING": "0.01",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "FSDP_VERSION": "1",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_OFFLOAD_PARAMS": "true",
    "DEEPSPEED_ZERO_STAGE": "3",
    "MIXED_PRECISION": "fp16",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
}
SHORT = ("training.max_steps=3", "packing.val_set_size=0")


def test_what_accelerate_launch_exports_changes_no_byte(project: Path, axolotl, monkeypatch: pytest.MonkeyPatch):
    stage("train", *SHORT)
    adapter = project / "artifacts" / "adapter"
    wanted = artifact_digest(adapter)
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    words = [word for option in SHORT for word in ("--set", option)]
    told = axolotl("stage", "train", "--force", *words, cwd=project).stdout
    assert "ACCELERATE_USE_FSDP" in told
    assert "of the environment not used: params.yaml decides" in told
    assert artifact_digest(adapter) == wanted


def test_the_defaults_of_accelerate_launch_are_not_worth_a_word(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "no", "ACCELERATE_USE_CPU": "true"}.items():
        monkeypatch.setenv(name, value)
    assert environment.clear() == []
    assert not any(name.startswith("ACCELERATE_") for name in os.environ)


def test_a_scheduler_that_counts_one_process_starts_no_group(project: Path, axolotl, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    words = [word for option in SHORT for word in ("--set", option)]
    told = axolotl("stage", "train", *words, cwd=project).stdout
    assert "× 1 rank" in told
    assert (project / "artifacts" / "adapter").exists()


@pytest.mark.parametrize(
    ("found", "launched"),
    [
        ({}, False),
        ({"RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"RANK": "0", "WORLD_SIZE": ""}, False),
        ({"WORLD_SIZE": "2"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2"}, True),
        ({"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}, True),
    ],
)
def test_what_is_a_group_of_processes(found: dict, launched: bool, monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert world.launched() == launched
    assert world.rank() == (1 if found.get("RANK") == "1" else 0)


def test_a_second_start_is_refused_before_a_weight_is_read(project: Path, monkeypatch: pytest.MonkeyPatch):
    stage("pack")
    plain = store.locked

    def already(run: Path):
        run.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(store, "locked", plain)
        held.enter_context(plain(run))
        return plain(run)

    from contextlib import ExitStack

    from axolotl_core.training import setup

    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    with ExitStack() as held, pytest.raises(TrainError, match="is training this very run"):
        monkeypatch.setattr(store, "locked", already)
        monkeypatch.setattr(setup, "load_model", loaded)
        stage("train", *SHORT)


ONE_FAILS = """
import signal, sys, time
import torch
from axolotl_core.distributed.failure import FailureWatch
signal.signal(signal.SIGTERM, lambda *_: None)  # as a run that is to end after its step
torch.distributed.init_process_group("gloo")
with FailureWatch():
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 1:
        raise MemoryError("of this process alone")
    time.sleep(600)
"""


def test_an_error_of_one_process_ends_those_that_wait_for_it():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen([sys.executable, "-c", ONE_FAILS], env={**os.environ, **group, "RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=120)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
    assert [process.returncode for process in processes] == [1, 1]
    assert "MemoryError" not in told[0]
    assert "MemoryError: of this process alone" in told[1]
