"""Work is never thrown away: what was finished is found again, whoever asks, wherever the folders lie."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from axolotl_core.artifacts.manifest import artifact_digest
from axolotl_core.cli.project import open_project
from axolotl_core.stages.survey import Survey
from tests.conftest import edit, stage, write_jsonl

SHORT = ("training.max_steps=2",)


def outputs(project: Path) -> dict[str, str]:
    names = ("raw/sums", "tokens/sums", "packed", "base", "adapter", "merged", "export")
    return {name: artifact_digest(project / "artifacts" / name) for name in names}


def test_an_edit_that_is_taken_back_computes_nothing(project: Path, capsys):
    stage("export", *SHORT)
    before = outputs(project)
    stage("export", *SHORT, "adapter.lora_r=2")
    assert outputs(project) != before
    planned = {one.step.name: one for one in Survey(*open_project(Path("params.yaml"), SHORT)).plan()}
    assert planned["train"].kept
    assert planned["merge"].kept, "what it reads is known, for the result of train is kept"
    capsys.readouterr()
    assert stage("export", *SHORT) == 3
    assert capsys.readouterr().out.count("restored from .axolotl/store") == 3
    assert outputs(project) == before


def test_what_was_removed_comes_back_with_its_metrics_and_can_be_trimmed(project: Path, capsys):
    stage("train", *SHORT)
    before = {path: path.read_bytes() for path in (project / "artifacts").rglob("*") if path.is_file()}
    shutil.rmtree(project / "artifacts")
    assert stage("train", *SHORT) == 8
    assert {path: path.read_bytes() for path in (project / "artifacts").rglob("*") if path.is_file()} == before
    shutil.rmtree(project / ".axolotl" / "store")
    shutil.rmtree(project / "artifacts" / "adapter")
    capsys.readouterr()
    stage("train", *SHORT)
    assert "restored from" not in capsys.readouterr().out


@pytest.fixture
def other_disk() -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("top", ["artifacts", ".axolotl", "artifacts/tokens"])
def test_a_folder_may_lie_on_another_disk(project: Path, other_disk: Path, tmp_path_factory, top: str):
    plain = shutil.copytree(project, tmp_path_factory.mktemp("plain") / "project")
    (project / top).parent.mkdir(exist_ok=True)
    (project / top).symlink_to(other_disk)
    stage("export", *SHORT)
    stage("export", *SHORT, "adapter.lora_r=2")
    assert stage("export", *SHORT) == 3, "train, merge and export come from the store"
    assert (project / top).is_symlink()
    os.chdir(plain)
    stage("export", *SHORT)
    assert outputs(project) == outputs(plain)


def test_what_costs_time_only_never_stops_a_run(project: Path, tmp_path_factory):
    plain = shutil.copytree(project, tmp_path_factory.mktemp("plain") / "project")
    (project / ".axolotl").mkdir()
    for name in ("store", "rows"):
        (project / ".axolotl" / name).write_text("a file where a folder should be")
    (project / ".axolotl" / "stat.json").mkdir()
    stage("export", *SHORT)
    assert stage("export", *SHORT) == 0
    os.chdir(plain)
    stage("export", *SHORT)
    assert outputs(project) == outputs(plain)


def dvc(project: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steps(project: Path) -> list[str]:
    return [path.name for path in project.glob(".axolotl/runs/*/step-*")]


def test_a_trainer_whose_repro_was_killed_is_not_trained_again(project: Path, axolotl):
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=project, check=True)
    (project / ".dvcignore").write_text(".axolotl/\n")
    axolotl("upgrade", cwd=project)
    edit(project / "params.yaml", "num_epochs: 2", "num_epochs: 20")
    edit(project / "params.yaml", "tracking: {}", "tracking: {save_steps: 5}")
    repro = dvc(project, "repro", "train")
    while repro.poll() is None and not steps(project):
        time.sleep(0.02)
    (trainer,) = (child for child in psutil.Process(repro.pid).children(recursive=True) if "train" in child.cmdline())
    repro.kill()
    while trainer.is_running() and trainer.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    assert repro.stdout is not None
    repro.stdout.close()
    repro.wait()
    trained = artifact_digest(project / "artifacts" / "adapter")
    (project / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
    again = dvc(project, "repro", "train")
    told, _ = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert "restored from .axolotl/store" in told
    assert "step 1" not in told
    assert artifact_digest(project / "artifacts" / "adapter") == trained


SLOW = """
import time
from pathlib import Path
from axolotl_core.formats.alpaca import load

def load_slow(data, style):
    Path("begun").touch()
    time.sleep(1)
    return load(data, style)
"""
WORKS = """
import sys
from axolotl_core.cli.main import main
if __name__ == "__main__":
    main(["stage", "tokenize", "--set", "machine.dataset_processes=2"])
"""


def test_workers_whose_parent_is_killed_end(project: Path):
    (project / "slow.py").write_text(SLOW)
    edit(project / "params.yaml", "type: alpaca", "type: slow.load_slow")
    (project / "start.py").write_text(WORKS)
    parent = subprocess.Popen([sys.executable, "start.py"], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    while parent.poll() is None and not (len(workers) == 2 and (project / "begun").exists()):
        workers = [child for child in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(child.cmdline())]
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert (len(gone), alive) == (2, [])


def test_two_that_pack_at_once_both_end_well(project: Path, axolotl):
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": f"Add {i}", "output": str(i)} for i in range(200)])
    settings = {"cwd": project, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(["axolotl", "stage", "pack"], **settings) for _ in "12"]
    assert [process.communicate(timeout=120)[1] for process in both] == ["", ""]
    assert "up to date" in axolotl("stage", "pack", cwd=project).stdout.splitlines()[-1]
    assert not list((project / "artifacts").rglob(".*.*"))
