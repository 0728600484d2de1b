"""Two real processes on gloo: the same losses and weights as one, and a checkpoint that any number resumes from."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from axolotl_core.errors import ParamsError
from axolotl_core.params.machine import Machine
from axolotl_core.params.sharding import Fsdp, deepspeed_of, fsdp_of
from tests import warm
from tests.conftest import ALPACA, LORA, PARAMS, REPOSITORY, TALKS, edit, stage, write_jsonl

SETTINGS = {
    "ddp": {},
    "fsdp": {"machine.fsdp": "[full_shard, auto_wrap]"},
    "zero2": {"machine.deepspeed": "zero2"},
    "zero3": {"machine.deepspeed": "deepspeed/zero3.json"},
}
LONG = {"training.num_epochs": "6", "training.batch_size": "3", "tracking.save_steps": "2", "training.warmup_steps": "4"}
"""20 rows in steps of 3: the last step of an epoch has 2, and with two processes one of them has less to do in every step."""


def words(options: dict[str, str]) -> list[str]:
    return [word for option, value in options.items() for word in ("--set", f"{option}={value}")]


def started(project: Path, kind: str, processes: int = 2) -> subprocess.Popen:
    command = [*MAIN, "train", *words(LONG | SETTINGS[kind]), "--set", f"machine.num_processes={processes}"]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(project: Path, kind: str, processes: int = 2) -> str:
    process = started(project, kind, processes)
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 0, told
    return told


def losses(project: Path) -> np.ndarray:
    lines = (project / "artifacts" / "plots" / "train.csv").read_text().splitlines()[1:]
    return np.array([[float(cell) for cell in line.split(",")[:4]] for line in lines])


def weights(project: Path) -> dict[str, np.ndarray]:
    (file,) = (project / "artifacts" / "adapter").glob("*.safetensors")
    return load_file(file)


def same(one: Path, other: Path) -> None:
    assert losses(one) == pytest.approx(losses(other), rel=2e-4)
    facts = [json.loads((box / "artifacts" / "adapter" / "manifest.json").read_text())["trained_parameters"] for box in (one, other)]
    assert facts[0] == facts[1] > 0, "counted before the model is sharded"
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert np.abs(mine[name] - theirs[name]).max() < 2e-3 * max(1e-2, np.abs(theirs[name]).max()), name


@dataclass(frozen=True)
class Ground:
    """A project three times: prepared, trained by one process, and ended by a signal in the midst of that."""

    prepared: Path
    trained: Path
    begun: Path

    def copy(self, name: str, to: Path) -> Path:
        return Path(shutil.copytree(getattr(self, name), to / name))


MAIN = ["axolotl", "stage"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Callable[[str], Ground]:
    """For `lora` or `full`."""

    @cache
    def made(method: str) -> Ground:
        warm.start()
        folder = tmp_path_factory.mktemp(method)
        prepared = folder / "prepared"
        (prepared / "data").mkdir(parents=True)
        write_jsonl(prepared / "data" / "sums.jsonl", ALPACA)
        (prepared / "data" / "talks.json").write_text(json.dumps(TALKS), encoding="utf-8")
        whole = PARAMS.replace(LORA, "  adapter:\n").replace("learning_rate: 1e-2", "learning_rate: 1e-3")
        (prepared / "params.yaml").write_text(PARAMS if method == "lora" else whole, encoding="utf-8")
        shutil.copytree(model_folder, prepared / "model")
        shutil.copytree(REPOSITORY / "pipelines" / "deepspeed", prepared / "deepspeed")
        for name in ("fetch", "pack"):
            subprocess.run([*MAIN, name], cwd=prepared, check=True, capture_output=True)
        trained, begun = (Path(shutil.copytree(prepared, folder / name)) for name in ("trained", "begun"))
        subprocess.run([*MAIN, "train", *words(LONG)], cwd=trained, check=True, capture_output=True)
        process = subprocess.Popen([*MAIN, "train", *words(LONG)], cwd=begun, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ended(begun, process)
        assert process.wait() == 75
        return Ground(prepared, trained, begun)

    return made


def ended(project: Path, process: subprocess.Popen) -> None:
    """By SIGTERM, once it has written a checkpoint."""
    while process.poll() is None and not any(project.glob(".axolotl/runs/*/step-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("kind", sorted(SETTINGS))  # others, and who reads whose checkpoint: test_checkpoints.py
def test_two_processes_train_lora_as_one_does_and_go_on_from_where_they_were(ground, tmp_path: Path, kind: str):
    two = ground("lora").copy("prepared", tmp_path)
    process = started(two, kind)
    ended(two, process)
    told, _ = process.communicate(timeout=120)
    assert process.returncode != 0, told
    assert "1 row × 2 accumulation × 2 ranks → 3 rows" in told
    assert not (two / "artifacts" / "adapter").exists()
    done = finished(two, kind)
    assert "resumed from the checkpoint of step" in done, told + done
    same(ground("lora").trained, two)


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_two_processes_train_all_weights_as_one_does_and_go_on_from_one(ground, tmp_path: Path, kind: str):
    two = ground("full").copy("begun", tmp_path)
    assert "resumed from the checkpoint of step" in finished(two, kind)
    same(ground("full").trained, two)


def test_four_processes_see_the_same_rows_in_each_step(ground, tmp_path: Path):
    four = ground("full").copy("prepared", tmp_path)
    finished(four, "ddp", processes=4)
    same(ground("full").trained, four)


def test_a_rank_that_is_killed_ends_the_run_with_its_cause_and_leaves_no_half_artifact(ground, tmp_path: Path):
    two = ground("lora").copy("prepared", tmp_path)
    process = started(two, "ddp")
    while process.poll() is None and not any(two.glob(".axolotl/runs/*/step-*")):
        time.sleep(0.005)
    found = subprocess.run(["pgrep", "-f", f"axolotl_core.stages.train --params {two}"], capture_output=True, text=True).stdout.split()
    os.kill(max(map(int, found)), signal.SIGKILL)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "of 2 was killed by SIGKILL, perhaps for want of memory; nothing is lost" in told
    assert not (two / "artifacts" / "adapter").exists()
    finished(two, "ddp")
    assert not list((two / ".axolotl" / "tmp").glob("adapter*"))


def test_relora_merges_alike_in_every_process(ground, tmp_path: Path, monkeypatch):
    two, one = (ground("lora").copy("prepared", tmp_path / name) for name in ("two", "one"))
    restarts = {"adapter.relora_steps": "10", "training.num_epochs": "4"}
    subprocess.run(
        [*MAIN, "train", *words(LONG | restarts), "--set", "machine.num_processes=2"], cwd=two, check=True, capture_output=True, timeout=200
    )
    monkeypatch.chdir(one)
    stage("train", *(f"{option}={value}" for option, value in (LONG | restarts).items()))
    same(one, two)


def test_a_mistake_in_many_processes_is_said_once(ground, tmp_path: Path):
    two = ground("lora").copy("prepared", tmp_path)
    edit(two / "params.yaml", "lora_target_linear: true", "lora_target_modules: [Wqkv]")
    process = started(two, "ddp")
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert told.count("the model has no module 'Wqkv'") == 1
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        ({"fsdp": ["full_shard", "auto_wrap"]}, Fsdp(True, False)),
        ({"fsdp": ["shard_grad_op auto_wrap offload"]}, Fsdp(False, True)),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, Fsdp(True, False)),
        (
            {
                "fsdp": ["full_shard"],
                "fsdp_config": {"fsdp_offload_params": True, "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer"},
            },
            Fsdp(True, True, ("LlamaDecoderLayer",)),
        ),
        ({"fsdp": True, "fsdp_config": {"fsdp_offload_params": "false", "fsdp_version": "2"}}, Fsdp(True, False)),
        ({"fsdp": True, "fsdp_config": {"fsdp_offload_params": "True"}}, Fsdp(True, True)),
        ({"fsdp": True, "fsdp_config": {"fsdp_sharding_strategy": "SHARD_GRAD_OP"}}, Fsdp(False, False)),
        ({"fsdp": True, "fsdp_config": {"sharding_strategy": 2}}, Fsdp(False, False)),
        ({"fsdp": True, "fsdp_config": {"sharding_strategy": "HYBRID_SHARD"}}, Fsdp(True, hybrid=True)),
        ({"fsdp": True, "fsdp_config": {"fsdp_sharding_strategy": "5"}}, Fsdp(False, hybrid=True)),
        ({"fsdp": True, "fsdp_config": {"fsdp_reshard_after_forward": "FULL_SHARD"}}, Fsdp(True, False)),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": "false"}}, Fsdp(False, False)),
        ({"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["A", "B"]}}, Fsdp(True, False, ("A", "B"))),
        ({"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": "A, B"}}, Fsdp(True, False, ("A", "B"))),
        ({}, None),
    ],
)
def test_fsdp_as_the_readme_of_axolotl_writes_it(machine: dict, wanted: Fsdp | None):
    assert fsdp_of(Machine(**machine)) == wanted


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"fsdp": ["full_shrad"]}, "machine.fsdp: got 'full_shrad', wanted some of full_shard, .*; did you mean 'full_shard'?"),
        (
            {"fsdp": True, "fsdp_config": {"fsdp_ofload_params": True}},
            "'ofload_params' is not a setting of FSDP; did you mean 'offload_params'",
        ),
        ({"fsdp": True, "fsdp_config": {"version": 3}}, "version is 3, wanted 1 or 2"),
        ({"fsdp": True, "fsdp_config": {"offload_params": "no"}}, "offload_params is no, wanted true or false"),
        ({"fsdp": True, "fsdp_config": {"sharding_strategy": "FUL_SHARD"}}, "is FUL_SHARD, wanted .*; did you mean 'FULL_SHARD'"),
        (
            {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": 7}},
            "transformer_layer_cls_to_wrap is 7, wanted names of classes",
        ),
    ],
)
def test_a_wrong_setting_of_fsdp_is_told(machine: dict, message: str):
    with pytest.raises(ParamsError, match=message):
        fsdp_of(Machine(**machine))


def test_what_a_deepspeed_file_has_no_say_in_is_told(tmp_path: Path):
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}, "scheduler": {}, "bf16": {}}))
    settings, told = deepspeed_of(Machine(deepspeed="old.json"), tmp_path)
    assert settings == {"zero_optimization": {"stage": 2}, "bf16": {}}
    assert told == [f"{file}: optimizer, scheduler not used: params.yaml decides"]
    for text, message in (("{", "is not JSON"), ("{}", "has no zero_optimization.stage; set it to 1, 2 or 3")):
        file.write_text(text)
        with pytest.raises(ParamsError, match=message):
            deepspeed_of(Machine(deepspeed="old.json"), tmp_path)
    with pytest.raises(ParamsError, match="machine.deepspeed: there is no file"):
        deepspeed_of(Machine(deepspeed="none.json"), tmp_path)


@pytest.mark.parametrize("stage_", [1, 2, 3])
def test_our_deepspeed_files_leave_everything_to_params_yaml(stage_: int):
    settings, told = deepspeed_of(Machine(deepspeed=f"zero{stage_}"), REPOSITORY)
    assert settings["zero_optimization"]["stage"] == stage_
    assert told == []
    assert "scheduler" not in settings
    assert "optimizer" not in settings


def test_one_process_trains_under_fsdp_too(ground, tmp_path: Path):
    one = ground("full").copy("prepared", tmp_path)
    finished(one, "fsdp", processes=1)
    same(ground("full").trained, one)


def test_a_layer_that_the_model_has_not_is_told_before_a_weight_is_read(project: Path, axolotl):
    wrapped = "machine.fsdp_config={transformer_layer_cls_to_wrap: GPT2Block}"
    options = ("--set", "machine.fsdp=true", "--set", wrapped, "--set", "machine.num_processes=1")
    told = axolotl("stage", "train", *options, cwd=project, status=1).stderr
    assert "transformer_layer_cls_to_wrap is GPT2Block, which is no class of a module of LlamaForCausalLM" in told
    assert "its layers are LlamaDecoderLayer" in told


def test_accelerate_launch_starts_the_stage_too(ground, tmp_path: Path):
    two = ground("lora").copy("prepared", tmp_path)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--multi_gpu", "-m", "axolotl_core.stages.train", *words(LONG | {"machine.device": "cpu"})]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(launch, cwd=two, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "× 2 ranks" in done.stdout
    same(ground("lora").trained, two)
