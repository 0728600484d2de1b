"""What an edit of params.yaml re-runs, through the real dvc program; test_plan.py has the table of edits."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import edit

STAGES = {
    "fetch@sums", "fetch@talks", "fetch-tokenizer", "fetch-model", "tokenize@sums", "tokenize@talks",
    "pack", "train", "evaluate", "merge", "export",
}  # fmt: skip


def dvc(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repro() -> set[str]:
    """Names of the stages that ran."""
    return {line.split("'")[1] for line in dvc("repro").splitlines() if line.startswith("Running stage")}


def set_up(project: Path, axolotl) -> None:
    """A git and DVC repository around the project, with the real dvc.yaml and `axolotl` on the PATH."""
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    dvc("init", "--quiet")
    axolotl("upgrade", cwd=project)
    (project / ".dvcignore").write_text(".axolotl/\n")


def test_the_invalidation_table(project: Path, axolotl):
    set_up(project, axolotl)
    params = project / "params.yaml"
    onward = {"evaluate", "merge", "export"}

    assert repro() == STAGES
    assert repro() == set(), "nothing changed, nothing runs"

    edit(params, "dataset_processes: 1", "dataset_processes: 2\n  gradient_checkpointing: false")
    edit(params, "tracking: {}", "tracking: {logging_steps: 2, save_total_limit: 1}")
    assert repro() == set(), "machine and tracking say how, never what"

    edit(params, "lora_r: 4", "lora_r: 2")
    assert repro() == {"train"} | onward

    # DVC depends on whole sections, so it calls the stage; where the option is in no key, nothing is computed
    edit(params, "num_epochs: 2", "num_epochs: 2\n  eval_steps: 3")
    edit(params, "eval_table_size: 1", "eval_table_size: 1\n  eval_batch_size: 2")
    told = dvc("repro")
    assert {line.split("'")[1] for line in told.splitlines() if line.startswith("Running stage")} == {"train", "evaluate"}
    assert told.count("restored from .axolotl/store") == 2

    # a row is added: its own dataset is fetched and tokenised again; the other one is looked at, and nothing more
    with (project / "data" / "sums.jsonl").open("a") as file:
        file.write('{"instruction": "Add 9 and 9.", "output": "18"}\n')
    assert repro() == {"fetch@sums", "fetch@talks", "tokenize@sums", "pack", "train"} | onward

    shown = dvc("metrics", "show")
    assert "artifacts/metrics/summary.json" in shown
    assert "eval_accuracy" in shown
    assert max(map(len, shown.splitlines())) <= 120
    page = dvc("plots", "show", "--out", "plots").strip()
    assert page.endswith("index.html")
    drawn = (project / "plots" / "index.html").read_text()
    assert "eval.csv::eval_loss" in drawn
    assert {line.count(",") for line in (project / "artifacts" / "plots" / "eval.csv").read_text().splitlines()} == {3}
    assert ",," not in (project / "artifacts" / "plots" / "train.csv").read_text(), "DVC draws an empty cell as 0"


def contents(project: Path) -> dict[Path, bytes]:
    files = (project / "artifacts").rglob("*")
    return {path: path.read_bytes() for path in files if path.is_file() and path.name != ".gitignore"}


def test_axolotl_stage_and_dvc_agree_on_what_is_up_to_date(project: Path, axolotl):
    set_up(project, axolotl)
    told = axolotl("stage", "export", cwd=project).stdout
    assert "DVC has not recorded this; `dvc repro export` does, and computes none of it again" in told
    before = contents(project)
    told = dvc("repro", "export")
    assert told.count("restored from .axolotl/store") == 10, "DVC has removed the outs of all of them"
    assert contents(project) == before
    assert repro() == {"evaluate"}
    assert repro() == set()
    assert "DVC has not recorded" not in axolotl("stage", "export", cwd=project).stdout
    told = axolotl("stage", "pack", "--set", "packing.sequence_len=64", cwd=project).stdout
    assert (
        "DVC has not recorded this: it was run with other params than params.yaml; `axolotl run` with the same ones makes them active"
        in told
    )
    (project / ".dvc" / "config").unlink()
    assert "DVC" not in axolotl("stage", "pack", cwd=project).stdout


def test_dvc_refuses_data_that_it_would_not_see_change(project: Path, axolotl):
    set_up(project, axolotl)
    (project / "data" / "sums.jsonl").rename(project / "sums.jsonl")
    edit(project / "params.yaml", "data/sums.jsonl", "sums.jsonl")
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "fetch@sums"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "datasets.sums.path is sums.jsonl, outside the folder data/, so DVC would not see it change; move it there" in done.stderr
