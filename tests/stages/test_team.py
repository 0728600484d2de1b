"""docs/team.md: a CPU box prepares, a GPU box trains, a team-mate pulls, all through one remote. Real git and real dvc."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import edit


def sh(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return sh(folder, sys.executable, "-m", "dvc", *arguments)


def ran(told: str) -> set[str]:
    return {line.split("'")[1] for line in told.splitlines() if line.startswith("Running stage")}


def have(folder: Path) -> set[str]:
    return {p.name for p in (folder / "artifacts").iterdir() if any(p.iterdir())}


def sources(axolotl, folder: Path) -> dict[str, str | None]:
    """Stage → where `axolotl plan` finds its result."""
    plan = json.loads(axolotl("plan", "--json", cwd=folder).stdout)
    return {one["stage"]: one["from"] for one in plan["stages"]}


def test_cpu_box_gpu_box_and_team_mate_share_one_remote(project: Path, tmp_path_factory, axolotl):
    boxes = tmp_path_factory.mktemp("boxes")
    mine = project.rename(boxes / "cpu")
    edit(mine / "params.yaml", "./model", str(mine / "model"))
    (mine / "params.yaml").rename(mine / "wanted.yaml")
    axolotl("init", str(mine), "--remote", str(boxes / "bucket"), cwd=boxes)
    (mine / "wanted.yaml").rename(mine / "params.yaml")
    axolotl("upgrade", cwd=mine)
    sh(mine, "git", "config", "user.email", "a@b.c")
    sh(mine, "git", "config", "user.name", "a")

    assert "fetch-model" not in ran(dvc(mine, "repro", "pack"))
    axolotl("push", cwd=mine)
    sh(mine, "git", "add", ".")
    sh(mine, "git", "commit", "-qm", "prepared")

    sh(boxes, "git", "clone", "-q", str(mine), "gpu")
    gpu = boxes / "gpu"
    found = sources(axolotl, gpu)
    assert {name: found[name] for name in ("fetch@sums", "tokenize@talks", "pack", "train")} == {
        "fetch@sums": "remote", "tokenize@talks": "remote", "pack": "remote", "train": None,
    }  # fmt: skip
    axolotl("pull", "train", cwd=gpu)
    assert ran(dvc(gpu, "repro", "--pull", "--allow-missing", "train")) == {"fetch-model", "train"}
    assert "raw" not in have(gpu)
    assert ran(dvc(gpu, "repro", "--pull", "--allow-missing")) == {"evaluate", "merge", "export"}
    lineage = json.loads((gpu / "artifacts" / "export" / "lineage.json").read_text())
    assert set(lineage) == {"raw/sums", "raw/talks", "tokens/sums", "tokens/talks", "tokenizer", "packed", "base", "adapter"}
    axolotl("push", cwd=gpu)
    for name, value in (("user.email", "a@b.c"), ("user.name", "a")):
        sh(gpu, "git", "config", name, value)
    sh(gpu, "git", "commit", "-qam", "trained")

    sh(boxes, "git", "clone", "-q", str(gpu), "mate")
    assert set(sources(axolotl, boxes / "mate").values()) == {"remote"}
    (boxes / "bucket").rename(boxes / "away")
    assert set(sources(axolotl, boxes / "mate").values()) == {None}, "a remote that cannot be asked holds nothing"
    (boxes / "away").rename(boxes / "bucket")
    axolotl("pull", cwd=boxes / "mate")
    assert set(sources(axolotl, boxes / "mate").values()) == {"artifacts"}
    shutil.rmtree(boxes / "mate" / "artifacts")
    assert set(sources(axolotl, boxes / "mate").values()) == {"store"}
    shutil.rmtree(boxes / "mate" / ".axolotl" / "store")
    assert set(sources(axolotl, boxes / "mate").values()) == {"dvc-cache"}
    axolotl("pull", cwd=boxes / "mate")
    assert ran(dvc(boxes / "mate", "repro")) == set()
    edit(boxes / "mate" / "params.yaml", "num_epochs: 2", "num_epochs: 2\n  eval_steps: 3")
    assert "restored from .axolotl/store" in dvc(boxes / "mate", "repro"), "an option that changes no result trains nothing here either"
    assert have(boxes / "mate") >= {"export", "adapter", "tokens", "metrics"}
