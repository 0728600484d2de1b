"""README.md and docs/ tell the truth: generated parts are those of the code, links lead somewhere, each command line runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from axolotl_core.cli.main import COMMANDS
from tests import warm
from tests.conftest import PARAMS, REPOSITORY, TALKS, write_jsonl
from tests.docs_tables import PAGES, ROOT, filled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_generated_parts_are_those_of_the_code(page: Path):
    text = page.read_text(encoding="utf-8")
    assert text == filled(text), "run `python -m tests.docs_tables`"


def test_every_command_is_named_and_every_command_named_exists():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"`axolotl ([a-z-]+)", text)) | set(re.findall(r"^axolotl ([a-z-]+)", text, re.MULTILINE))
    assert named - {"stage"} <= {*COMMANDS}
    shown = set(re.findall(r"[a-z-]+", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {*COMMANDS} - {"merge-lora", "fetch"} <= shown


def test_make_targets_named_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for target in set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_site_builds_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


ELSEWHERE = {
    "axolotl init my-project --remote s3://bucket/axolotl": "test_team, with a folder",
    "dvc repro pack && axolotl push": "test_team",
    "git pull && axolotl pull train": "test_team",
    "dvc repro --pull --allow-missing && axolotl push": "test_team",
    "git pull && axolotl pull && dvc repro": "test_team",
    "axolotl run --set adapter.lora_r=32": "test_cli: run goes through dvc",
}
"""Lines that other tests run, or that need several machines."""


def lines() -> list[str]:
    """Command lines of fenced blocks, without their comments."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                command = line.partition("  #")[0].strip()
                if re.search(r"\b(axolotl|dvc) ", command) and not command.startswith(("git clone", "cp ")):
                    found[command] = None
    return list(found)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A project with all that the lines name: a trained model, a commit, old.yml, a dataset called faq."""
    warm.start()
    folder = tmp_path_factory.mktemp("docs")
    sh = lambda *command: subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: E731
    shutil.copytree(model_folder, folder / "model")
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "faq.jsonl", [{"instruction": f"Say {i}.", "output": str(i)} for i in range(12)])
    (folder / "data" / "talks.json").write_text(json.dumps(TALKS), encoding="utf-8")
    (folder / "params.yaml").write_text(PARAMS.replace("sums", "faq").replace("num_epochs: 2", "max_steps: 2"), encoding="utf-8")
    old = ["base_model: ./model", "datasets:", "  - path: data/faq.jsonl", "    type: alpaca", "adapter: lora", "lora_target_linear: true"]
    (folder / "old.yml").write_text("\n".join([*old, "max_steps: 1", "sequence_len: 128", "micro_batch_size: 1", ""]), encoding="utf-8")
    (folder / ".dvcignore").write_text(".axolotl/\n")
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        ["axolotl", "upgrade"],
        [sys.executable, "-m", "dvc", "repro", "-q"],
        ["git", "add", "."],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "first"],
    ):
        sh(*command)
    return folder


@pytest.mark.parametrize("line", lines())
def test_a_line_of_the_documentation_runs(documented: Path, tmp_path: Path, line: str):
    if line in ELSEWHERE:
        return
    (run,) = (documented / ".axolotl" / "runs").glob("*/step-2")
    command = line.replace(".axolotl/runs/KEY/step-100", str(run))
    here = tmp_path if " init " in command else documented
    if "old.yml" in command:  # which changes artifacts/, that other lines read
        here = shutil.copytree(documented, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns(".dvc", "artifacts"))
        command = command.replace("import old.yml", "import old.yml --force")
    if "--branch-from" in command:
        command += " --set training.max_steps=3"
    done = subprocess.run(command, shell=True, cwd=here, input="Hi", capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_what_is_run_elsewhere_is_still_there():
    assert set(ELSEWHERE) <= set(lines())
