"""Weights & Biases by the real client, offline, and TensorBoard: what they were told, read back from their files."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from axolotl_core.tracking.csv import write_csv
from tests.conftest import stage

OFFLINE = ("tracking.wandb_mode=offline", "tracking.wandb_project=frogs")
BLOCK, HEADER = 32768, struct.Struct("<IHB")


def records(project: Path) -> Iterator:
    """The records of an offline run: a LevelDB log of protobuf messages after seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = project.glob("wandb/offline-run-*/run-*.wandb")
    data, at, begun = file.read_bytes(), 7, b""
    while at + HEADER.size <= len(data):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = HEADER.unpack_from(data, at)
        begun = (begun if kind in (3, 4) else b"") + data[at + HEADER.size : at + HEADER.size + size]
        at += HEADER.size + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(begun)
            yield record


def history(project: Path) -> dict[int, dict[str, float]]:
    """Step → what was logged."""
    found: dict[int, dict[str, float]] = {}
    for record in records(project):
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            found.setdefault(row["_step"], {}).update(row)
    return found


def test_wandb_gets_the_rows_of_the_log_and_the_key_as_its_id(project: Path):
    stage("train", *OFFLINE, "tracking.wandb_entity=axolotls")
    key = json.loads((project / "artifacts" / "keys" / "adapter.json").read_text())["key"]
    (run,) = (record.run for record in records(project) if record.WhichOneof("record_type") == "run" and record.run.run_id)
    assert (run.run_id, run.project, run.entity) == (key, "frogs", "axolotls")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["training"]["num_epochs"] == 2
    rows = history(project)
    lines = (project / "artifacts" / "plots" / "train.csv").read_text().splitlines()
    for line in lines[1:]:
        logged = dict(zip(lines[0].split(","), map(float, line.split(",")), strict=True))
        step = int(logged.pop("step"))
        assert {name: rows[step][f"train/{name}"] for name in logged} == pytest.approx(logged)
    assert rows[0]["eval/loss"] > rows[20]["eval/loss"] > 0
    assert "eval/accuracy" in rows[20]


def test_the_table_of_predictions_has_prompts_and_what_follows_them(project: Path):
    stage("train", *OFFLINE, "evaluation.eval_table_size=2")
    tables = sorted(project.glob("wandb/*/files/media/table/Eval - Predictions vs Ground Truth_20_*.json"))
    table = json.loads(tables[-1].read_text())
    assert table["columns"] == ["id", "Prompt", "Correct Completion", "Predicted Completion", "Predicted Tokens"]
    assert len(table["data"]) == 2
    for number, (row_id, prompt, wanted, told, _) in enumerate(table["data"]):
        assert row_id == number
        assert ("Add" in prompt and "The sum is" in wanted) or ("colour" in prompt and wanted.split("<")[0] in ("red", "green", "blue"))
        assert isinstance(told, str)


def test_a_run_id_of_ones_own_and_models_as_artifacts(project: Path):
    settings = ("tracking.wandb_run_id=mine", "tracking.wandb_log_model=checkpoint", "tracking.wandb_watch=gradients")
    stage("train", *OFFLINE, *settings, "tracking.save_steps=10")
    found = list(records(project))
    models = [r.artifact for r in found if r.WhichOneof("record_type") == "artifact" and r.artifact.type == "model"]
    assert {artifact.name for artifact in models} == {"model-mine"}
    aliases = [set(artifact.aliases) - {"latest"} for artifact in models]
    assert aliases == [{"step-10"}, {"step-20"}, {"final"}]
    assert any(name.startswith("gradients/") for row in history(project).values() for name in row)


@pytest.mark.parametrize("options", [(), ("tracking.wandb_mode=disabled", "tracking.wandb_project=frogs")], ids=["unset", "disabled"])
def test_wandb_that_is_not_wanted_is_not_there(project: Path, options: tuple):
    stage("train", *options)
    assert not (project / "wandb").exists()


@pytest.mark.parametrize(
    ("variables", "options", "wanted"),
    [
        ({"WANDB_MODE": "offline", "WANDB_PROJECT": "newts", "WANDB_ENTITY": "us"}, (), ("newts", "us")),
        (
            {"WANDB_MODE": "offline", "WANDB_PROJECT": "newts"},
            ("tracking.wandb_project=frogs", "tracking.wandb_entity=me"),
            ("frogs", "me"),
        ),
        ({"WANDB_MODE": "disabled"}, ("tracking.wandb_project=frogs",), None),
        ({"WANDB_MODE": "offline"}, (), None),
    ],
    ids=["all", "options win", "disabled", "no project"],
)
def test_the_environment_holds_where_an_option_is_unset(project: Path, monkeypatch, variables: dict, options: tuple, wanted: tuple | None):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stage("train", *options, "training.max_steps=2")
    runs = [record.run for record in records(project) if record.WhichOneof("record_type") == "run" and record.run.run_id] if wanted else []
    assert [(run.project, run.entity) for run in runs] == ([wanted] if wanted else [])
    assert (project / "wandb").exists() == (wanted is not None)


def test_a_number_more_in_the_log_is_a_column_more(tmp_path: Path):
    log = [{"step": 1, "loss": 2.0, "new": 7}, {"step": 1, "eval_loss": 3.0}, {"step": 2, "loss": 1.0}]
    write_csv(tmp_path / "train.csv", log, ("step", "loss"))
    assert (tmp_path / "train.csv").read_text() == "step,loss,new\n1,2.0,7\n2,1.0,\n"


def test_wandb_without_an_account_keeps_the_run_here(project: Path, axolotl):
    done = axolotl("stage", "train", "--set", "tracking.wandb_project=frogs", cwd=project, env=without_account(project))
    assert "this machine is not logged in to W&B (`wandb login`): the run is kept in wandb/" in done.stdout
    assert list(project.glob("wandb/offline-run-*"))


def without_account(project: Path) -> dict[str, str]:
    names = ("WANDB_API_KEY", "WANDB_MODE")
    return {name: value for name, value in os.environ.items() if name not in names} | {"NETRC": str(project / "none")}


def test_wandb_online_without_an_account_is_told(project: Path, axolotl):
    options = ("--set", "tracking.wandb_project=frogs", "--set", "tracking.wandb_mode=online")
    done = axolotl("stage", "train", *options, cwd=project, status=1, env=without_account(project))
    assert "axolotl: tracking: wandb cannot start: " in done.stderr
    assert done.stderr.rstrip().endswith("set wandb_mode: offline")
    assert "Traceback" not in done.stderr


def test_tensorboard_gets_the_rows_of_the_log(project: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage("train", "tracking.tensorboard=true")
    (folder,) = (project / "tensorboard").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    losses = [line.split(",")[2] for line in (project / "artifacts" / "plots" / "train.csv").read_text().splitlines()[1:]]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(list(map(float, losses)))
    assert {"train/learning_rate", "train/grad_norm", "eval/loss"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize("package", ["datasets", "dvc", "wandb", "tensorboard", "deepspeed"])
def test_training_imports_nothing_that_it_does_not_use(package: str):
    code = f"import sys, axolotl_core.training.train, axolotl_core.stages.train; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
