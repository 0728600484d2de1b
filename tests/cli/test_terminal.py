"""Control characters of rows, names, files and models never reach the terminal as they are."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from axolotl_core.terminal import printable
from tests.conftest import edit, write_jsonl

EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\x00\r\u202egpj.exe\u2066"
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def axolotl(folder: Path, *words: str, status: int = 0, **settings) -> str:
    done = subprocess.run(["axolotl", *words], cwd=folder, capture_output=True, check=False, timeout=300, **settings)
    told = (done.stdout + done.stderr).decode()
    assert done.returncode == status, told
    assert RAW.search(told) is None, told
    return told


def test_what_is_printable_stays():
    text = "tab\tnewline\nünïcödé 水 🙂 عربي עברית e\u0301 \u200d"
    assert printable(text) == text
    assert printable(EVIL) == "\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\x00\\r\\u202egpj.exe\\u2066"


def test_rows_are_shown_escaped(project: Path):
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": f"Add {EVIL}", "output": f"3 {EVIL}"}] * 12)
    assert "\\x1b]0;title" in axolotl(project, "view", "tokens", "--dataset", "sums")
    words = ["axolotl", "view", "tokens", "--dataset", "sums", "--color"]
    coloured = subprocess.run(words, cwd=project, capture_output=True, text=True, check=True)
    assert RAW.search(re.sub(r"\x1b\[[0-9;]*m", "", coloured.stdout)) is None
    assert "\\x1b]0;title" in coloured.stdout
    axolotl(project, "view", "masks")
    axolotl(project, "stage", "evaluate", "--set", "training.max_steps=1")
    axolotl(project, "report")


def test_malformed_rows_names_and_options_are_told_escaped(project: Path):
    with (project / "data" / "sums.jsonl").open("a") as file:
        file.write(f'{{"instruction": {EVIL}\n')
    assert "malformed JSON" in axolotl(project, "stage", "fetch@sums", status=1)
    write_jsonl(project / "data" / "sums.jsonl", [{f"question{EVIL}": "a"}])
    assert "wants the field 'instruction'" in axolotl(project, "stage", "pack", status=1)
    (project / "data" / "sums.jsonl").rename(project / "data" / "\x1b[2Jsums.jsonl")
    edit(project / "params.yaml", "path: data/sums.jsonl", 'path: "data/\\e[2Jsums.jsonl"')
    axolotl(project, "stage", "fetch@sums")
    edit(project / "params.yaml", "type: alpaca", 'type: "alpaca\\e[2J"')
    assert "no format is called 'alpaca\\x1b[2J'" in axolotl(project, "check", status=2)


def test_a_file_whose_name_is_no_text_is_fetched(project: Path):
    folder = project / "data" / "folder"
    folder.mkdir()
    os.rename(os.fsencode(project / "data" / "sums.jsonl"), os.fsencode(folder) + b"/\xff\x1b.jsonl")
    edit(project / "params.yaml", "path: data/sums.jsonl", "path: data/folder")
    axolotl(project, "stage", "pack")
    assert "up to date" in axolotl(project, "stage", "pack")


@pytest.mark.parametrize("which", ["adapter", "base"])
def test_replies_are_shown_escaped(project: Path, which: str):
    axolotl(project, "stage", "train", "--set", "training.max_steps=1")
    words = ("inference", "--model", which, "--max-new-tokens", "60", "--temperature", "3", "--seed", "1", "--raw")
    axolotl(project, *words, input=f"Add {EVIL}".encode())


def test_the_page_is_escaped(project: Path):
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "<script>alert(1)</script>", "output": "3"}] * 12)
    axolotl(project, "view", "tokens", "--dataset", "sums", "--html", "row.html")
    assert "<script>" not in (project / "row.html").read_text()
