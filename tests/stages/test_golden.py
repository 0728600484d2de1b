"""A stage that makes other bytes of the same inputs has another revision, or caches would be trusted that are stale."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import stages as golden


def test_stages_make_what_they_made_at_their_revision(tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    golden.make_project(tmp_path, tokenizer_folder)
    found, wanted = golden.made_by_stages(tmp_path), json.loads(golden.FILE.read_text(encoding="utf-8"))
    assert found.keys() == wanted.keys()
    for name, made in found.items():
        assert made["revision"] == wanted[name]["revision"], f"{name}: run `python -m tests.golden.stages` and commit the file"
        if made["made"] != wanted[name]["made"]:
            assert isinstance(made["made"], dict), f"{name}: other bytes at the same revision; raise it in stages/graph.py"
            close(made["made"], wanted[name]["made"], f"{name}: other numbers at the same revision; raise it in stages/graph.py")


def close(found: Any, wanted: Any, message: str) -> None:
    """Equal, floats to a hundredth."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), message
        for key, value in wanted.items():
            close(found[key], value, f"{message} ({key})")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), message
        for one, other in zip(found, wanted, strict=True):
            close(one, other, message)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-2, abs=1e-2), message
    else:
        assert found == wanted, message
