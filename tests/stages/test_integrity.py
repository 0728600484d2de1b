"""A cache that cannot be lied to: what a key is made of is what was read, and what was damaged is healed or named."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import axolotl_core.stages.build
import axolotl_core.stages.run
import axolotl_core.stages.tokenize
from axolotl_core.artifacts.manifest import artifact_digest
from axolotl_core.errors import ArtifactError, AxolotlError, DataError, ModelError
from axolotl_core.sources import readers
from tests.conftest import edit, stage, write_jsonl

SHORT = (
    "training.max_steps=2",
    "tracking.logging_steps=1",
    "training.eval_steps=1",
    "load_best_model_at_end=true",
    "tracking.save_steps=1",
)
OUTPUTS = (
    "raw/sums",
    "raw/talks",
    "tokenizer",
    "base",
    "tokens/sums",
    "tokens/talks",
    "packed",
    "adapter",
    "evaluation",
    "merged",
    "export",
)


def digests(project: Path) -> dict[str, str]:
    return {name: artifact_digest(project / "artifacts" / name) for name in OUTPUTS if (project / "artifacts" / name).exists()}


def rows(project: Path) -> int:
    return json.loads((project / "artifacts" / "raw" / "sums" / "manifest.json").read_text())["rows"]


def test_training_reads_the_config_that_was_pinned(project: Path):
    stage("train", *SHORT)
    before = digests(project)
    edit(project / "model" / "config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5')
    stage("train", *SHORT, only=True, force=True)
    assert digests(project) == before, "the user's folder is not looked at"
    assert stage("train", *SHORT) == 3, "the edit is seen: fetch-model, fetch-tokenizer (which could read it) and train"
    assert digests(project)["base"] != before["base"]
    assert digests(project)["adapter"] != before["adapter"]


def changing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None], after: Callable[[], None] = lambda: None) -> None:
    """Call `change` when the first row of a dataset has been read, and `after` when all have been."""
    read = readers.read_jsonl

    def meanwhile(source, shown) -> Iterator:
        found = read(source, shown)
        yield next(found)
        change()
        yield from found
        after()

    monkeypatch.setattr(readers, "read_jsonl", meanwhile)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch):
    data = project / "data" / "sums.jsonl"

    def overwrite() -> None:
        before = os.stat(data)
        data.write_bytes(data.read_bytes().replace(b"Add", b"Sub"))
        os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))

    changing(monkeypatch, overwrite)
    with pytest.raises(DataError, match=r"sums.jsonl: changed while it was read; run again when nothing writes to it"):
        stage("fetch@sums")
    assert not (project / "artifacts" / "raw" / "sums").exists()


@pytest.mark.parametrize("by", ["rename", "link"])
def test_another_file_under_the_name_is_not_what_is_read(project: Path, monkeypatch: pytest.MonkeyPatch, by: str):
    """It is put back when all is read, so that nothing can be seen on_published."""
    data, other, aside = project / "data" / "sums.jsonl", project / "other.jsonl", project / "aside"
    write_jsonl(other, [{"instruction": "bad", "output": "rows"}] * 3)
    if by == "link":
        data.rename(project / "real.jsonl")
        data.symlink_to(project / "real.jsonl")

    def swap() -> None:
        data.rename(aside)
        data.symlink_to(other)

    def back() -> None:
        data.unlink()
        aside.rename(data)

    changing(monkeypatch, swap, back)
    stage("fetch@sums")
    assert rows(project) == 24


def test_a_change_behind_the_rows_that_are_taken_is_seen_too(project: Path, monkeypatch: pytest.MonkeyPatch):
    data = project / "data" / "sums.jsonl"
    changing(monkeypatch, lambda: data.write_bytes(data.read_bytes() + b"\n"))
    with pytest.raises(DataError, match=r"sums.jsonl: changed while it was read"):
        stage("fetch@sums", "datasets.sums.max_rows=2")


def test_what_changes_between_key_and_build_lies_under_its_own_key(project: Path, monkeypatch: pytest.MonkeyPatch):

    decide = axolotl_core.stages.run.decide

    def meanwhile(*arguments):
        write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "other", "output": "rows"}] * 3)
        return decide(*arguments)

    before = (project / "data" / "sums.jsonl").read_bytes()
    monkeypatch.setattr(axolotl_core.stages.run, "decide", meanwhile)
    stage("fetch@sums")
    assert rows(project) == 3
    monkeypatch.undo()
    os.chdir(project)
    (project / "data" / "sums.jsonl").write_bytes(before)
    stage("fetch@sums")
    assert rows(project) == 24


def test_an_input_that_another_process_replaces_meanwhile_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch):
    import axolotl_core.stages.tokenize

    stage("fetch")
    write = axolotl_core.stages.tokenize.write_tokens

    def meanwhile(*arguments, **settings):
        write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "other", "output": "rows"}] * 3)
        stage("fetch@sums", only=True)
        return write(*arguments, **settings)

    monkeypatch.setattr(axolotl_core.stages.tokenize, "write_tokens", meanwhile)
    with pytest.raises(DataError, match=r"what tokenize@sums reads changed while it was read"):
        stage("tokenize@sums", only=True)
    assert not (project / "artifacts" / "tokens" / "sums").exists()


@pytest.mark.parametrize(
    ("file", "name"), [("model/tokenizer.json", "fetch-tokenizer"), ("model/config.json", "fetch-model"), ("quiz.py", "tokenize@sums")]
)
def test_a_tokenizer_a_model_or_a_format_that_changes_after_the_key_was_made_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str
):
    (project / "quiz.py").write_text(
        "from axolotl_core.formats.alpaca import load as alpaca\n\n\ndef load_quiz(data, style):\n    return alpaca(data, style)\n"
    )
    edit(project / "params.yaml", "type: alpaca", "type: quiz.load_quiz")
    stage("fetch")

    lineage = axolotl_core.stages.build.lineage

    def meanwhile(*arguments) -> dict:
        (project / file).write_text((project / file).read_text() + "\n")
        return lineage(*arguments)

    monkeypatch.setattr(axolotl_core.stages.build, "lineage", meanwhile)
    with pytest.raises((DataError, ModelError), match=f"{Path(file).name}: changed while it was read"):
        stage(name, only=True, force=True)


def test_weights_that_change_while_they_are_loaded_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch):
    from axolotl_core.training import train as session

    stage("pack")
    set_up = session.set_up

    def meanwhile(*arguments, **settings):
        ready = set_up(*arguments, **settings)
        weights = project / "model" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        return ready

    monkeypatch.setattr(session, "set_up", meanwhile)
    with pytest.raises(ModelError, match=r"model.safetensors: the base model has changed since it was fetched"):
        stage("train", *SHORT)


def test_a_name_that_says_another_kind_of_file_is_another_key(project: Path):
    (project / "folder").mkdir()
    (project / "folder" / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    options = ("datasets.talks.path=folder", "datasets.talks.type=completion", "datasets.talks.conversation=null")
    stage("fetch@talks", *options)
    (project / "folder" / "a.jsonl").rename(project / "folder" / "a.txt")
    assert stage("fetch@talks", *options) == 1


def test_verify_reads_what_size_and_time_do_not_give_away(project: Path, axolotl, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("axolotl_core.artifacts.stats.TICK_NS", -(10**12))
    stage("fetch@sums")
    from axolotl_core.artifacts.stats import StatCache

    stats = StatCache(project / ".axolotl" / "stat.json")
    lie = stats.digest(project / "data" / "sums.jsonl")
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "new", "output": "row"}])
    stats.digest(project / "data" / "sums.jsonl")
    stats.known = {name: (stamp, lie) for name, (stamp, _) in stats.known.items()}  # what a clock that was set back would do
    stats.save()
    assert "up to date" in axolotl("stage", "fetch@sums", cwd=project).stdout
    assert "1 rows of" in axolotl("stage", "fetch@sums", "--verify", cwd=project).stdout
    assert "up to date" in axolotl("stage", "fetch@sums", cwd=project).stdout


def test_files_that_lie_in_an_artifact_and_are_no_part_of_it_are_not_read(project: Path):
    stage("export", *SHORT)
    stage("evaluate", *SHORT)
    before = digests(project)
    artifacts = project / "artifacts"
    for name in ("raw/sums", "tokens/sums", "packed/train"):
        shutil.copyfile(artifacts / name / "part-00000.arrow", artifacts / name / "part-00001.arrow")
    (artifacts / "tokenizer" / "user_tokens.json").write_text('["the"]')
    (artifacts / "base" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (artifacts / "base" / "model.safetensors.index.json").write_text("{")
    (artifacts / "adapter" / "model.safetensors").write_bytes(b"stray")
    (artifacts / "merged" / "pytorch_model.bin").write_bytes(b"stray")
    (artifacts / "export" / "notes.txt").write_text("mine")
    for name in ("tokenize@sums", "pack", "train", "merge", "evaluate", "export"):
        stage(name, *SHORT, only=True, force=True)
    assert digests(project) == before
    assert not (artifacts / "export" / "pytorch_model.bin").exists()


HARMS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flip": lambda data, draw: _flipped(data, draw.randrange(max(1, len(data))), 1 << draw.randrange(8)),
    "truncate": lambda data, draw: data[: len(data) // 2],
    "empty": lambda data, draw: b"",
    "delete": lambda data, draw: None,
}


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :] if data else b"x"


def test_whatever_is_damaged_is_not_read_or_healed_or_named(project: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """Every file of every artifact, checkpoint, result and cache, four ways; what comes out is what came out before, or an error."""
    stage("export", *SHORT)
    stage("evaluate", *SHORT)
    wanted = digests(project)
    clean = project.parent / "clean"
    shutil.copytree(project, clean, symlinks=True)
    files = sorted(path.relative_to(project) for top in ("artifacts", ".axolotl") for path in (project / top).rglob("*") if path.is_file())
    assert len(files) > 100
    draw, named = random.Random(11), 0
    for file in files:
        for harm in HARMS.values() if "store" not in file.parts else [HARMS["flip"]]:
            after = harm((clean / file).read_bytes(), draw)
            if after is None:
                (project / file).unlink()
            else:
                (project / file).write_bytes(after)  # in place: a hard link in the store is damaged with it
            told = ""
            try:
                for target in ("export", "evaluate"):
                    stage(target, *SHORT)
            except AxolotlError as error:
                told = str(error)
            if told:
                assert file.name in told or "best evaluation" in told, f"{file}: {told}"
                named += 1
            else:
                assert digests(project) == wanted, file
            for path in (project / "artifacts", project / ".axolotl"):
                shutil.rmtree(path)
            for top in ("artifacts", ".axolotl"):
                shutil.copytree(clean / top, project / top, symlinks=True)
    capsys.readouterr()
    assert named < 10, "nearly all of it heals"


@pytest.mark.parametrize("name", ["train", "evaluate", "export"])
def test_a_damaged_metrics_or_key_file_that_a_stage_reads_is_named(project: Path, name: str):
    stage("export", *SHORT)
    stage("evaluate", *SHORT)
    files = {"train": "keys/packed.json", "evaluate": "metrics/held_out.json", "export": "metrics/train.json"}
    file = project / "artifacts" / files[name]
    file.write_bytes(_flipped(file.read_bytes(), 40, 1))
    with pytest.raises(ArtifactError, match=f"{file.name}: damaged, it is not what"):
        stage(name, *SHORT, only=True, force=True)
