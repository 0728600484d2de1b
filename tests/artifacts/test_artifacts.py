"""Keys, manifests, tables, and writing so that nothing is lost."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from axolotl_core.artifacts import manifest, table
from axolotl_core.artifacts.key import StatCache, canonical, digest_file, stage_key
from axolotl_core.artifacts.scratch import building, replace, sweep, write_atomically
from axolotl_core.artifacts.table import TableWriter, batches, parts
from axolotl_core.errors import ArtifactError, MachineError

SCHEMA = pa.schema([("n", pa.int32())])


def sealed(folder: Path, text: str = "hello") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "part.txt").write_text(text, encoding="utf-8")
    return manifest.seal(folder, "test", {"rows": 1})


def test_canonical_json_is_one_text_for_one_value():
    assert canonical({"b": 1, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":1}'.encode()


@pytest.mark.parametrize(
    "other",
    [
        ("pack", 1, {"packing": {"sequence_len": 8}}, {"tokens/a": "d1"}),
        ("train", 2, {"packing": {"sequence_len": 8}}, {"tokens/a": "d1"}),
        ("train", 1, {"packing": {"sequence_len": 9}}, {"tokens/a": "d1"}),
        ("train", 1, {"packing": {"sequence_len": 8}}, {"tokens/a": "d2"}),
        ("train", 1, {"packing": {"sequence_len": 8}}, {"tokens/b": "d1"}),
    ],
)
def test_a_key_depends_on_stage_revision_sections_and_inputs(other: tuple):
    assert stage_key("train", 1, {"packing": {"sequence_len": 8}}, {"tokens/a": "d1"}) != stage_key(*other)


def test_a_key_does_not_depend_on_order_or_hash_seed():
    code = "from axolotl_core.artifacts.key import stage_key; print(stage_key('a', 1, {'x': {'q': 1, 'p': 2}}, {'b': '1', 'a': '2'}))"
    keys = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in "01"
    }
    assert keys == {(stage_key("a", 1, {"x": {"p": 2, "q": 1}}, {"a": "2", "b": "1"}) + "\n").encode()}


def test_the_digest_is_of_the_content_alone(tmp_path: Path):
    assert sealed(tmp_path / "one") == sealed(tmp_path / "two") == manifest.artifact_digest(tmp_path / "two")
    assert sealed(tmp_path / "one") != sealed(tmp_path / "three", "other")


def test_a_whole_artifact_passes(tmp_path: Path):
    sealed(tmp_path / "a")
    assert manifest.verify(tmp_path / "a")["rows"] == 1


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (
            lambda a: (a / "part.txt").write_text("hallo"),
            "part.txt: damaged artifact, got digest .*, wanted .*; delete .* and run its stage again",
        ),
        (lambda a: (a / "part.txt").write_text("hell"), "part.txt: damaged artifact, got 4 bytes, wanted 5; delete"),
        (lambda a: (a / "part.txt").unlink(), "part.txt: damaged artifact, the file is gone; delete"),
        (lambda a: (a / "manifest.json").unlink(), "is not whole .it has no manifest.json.; run the stage that makes it"),
        (lambda a: (a / "manifest.json").write_text("{"), "manifest.json: damaged, it is not a manifest; delete"),
        (lambda a: (a / "manifest.json").write_text('{"version": 0}'), "got an artifact of version 0, wanted 1; run its stage again"),
    ],
)
def test_a_damaged_artifact_is_refused_by_name(tmp_path: Path, harm, told: str):
    sealed(tmp_path / "a")
    harm(tmp_path / "a")
    with pytest.raises(ArtifactError, match=told):
        manifest.verify(tmp_path / "a")


def test_a_missing_artifact_is_told(tmp_path: Path):
    with pytest.raises(ArtifactError, match="nothing: is missing; run the stage that makes it"):
        manifest.verify(tmp_path / "nothing")


def test_an_error_while_building_leaves_the_old_artifact(tmp_path: Path):
    sealed(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), building(tmp_path / "a", tmp_path / "tmp") as folder:
        (folder / "x").write_text("half")
        raise ZeroDivisionError
    assert manifest.verify(tmp_path / "a")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_new_artifact_takes_the_place_of_the_old(tmp_path: Path):
    sealed(tmp_path / "a", "old")
    with building(tmp_path / "a", tmp_path / "tmp") as folder:
        sealed(folder / "artifact", "new")
        replace(folder / "artifact", tmp_path / "a")
    assert (tmp_path / "a" / "part.txt").read_text() == "new"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_full_disk_leaves_the_old_artifact(tmp_path: Path):
    sealed(tmp_path / "a", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with (
            pytest.raises(MachineError, match="the disk is full .*; the previous artifact was left as it was"),
            building(tmp_path / "a", tmp_path / "tmp") as folder,
        ):
            (folder / "big").write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "a" / "part.txt").read_text() == "old"
    assert manifest.verify(tmp_path / "a")


@pytest.mark.parametrize("write", ["safetensors", "torch"])
def test_a_full_disk_is_told_by_whoever_writes(tmp_path: Path, write: str):
    import torch
    from safetensors.torch import save_file

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(MachineError, match="the disk is full"), building(tmp_path / "a", tmp_path / "tmp") as folder:
            tensors = {"w": torch.zeros(4000)}
            save_file(tensors, folder / "x") if write == "safetensors" else torch.save(tensors, folder / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_dead_process_left_is_removed(tmp_path: Path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    for name in (f"a.{dead.stdout.strip()}", f"a.{os.getpid()}", "keep-me"):
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f"a.{os.getpid()}", "keep-me"])


def test_a_small_file_is_replaced_whole(tmp_path: Path):
    write_atomically(tmp_path / "f", b"old")
    write_atomically(tmp_path / "f", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"new")]


def test_table_bytes_do_not_carry_metadata(tmp_path: Path):
    for name, metadata in (("one", None), ("two", {"from": "pandas"})):
        with TableWriter(tmp_path / name, SCHEMA.with_metadata(metadata)) as out:
            out.write(pa.record_batch([pa.array([1, 2], pa.int32())], schema=SCHEMA.with_metadata(metadata)))
    assert digest_file(parts(tmp_path / "one")[0]) == digest_file(parts(tmp_path / "two")[0])


def test_parts_are_cut_at_a_fixed_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "PART_ROWS", 4)
    with TableWriter(tmp_path, SCHEMA) as out:
        for i in range(5):
            out.write(pa.record_batch([pa.array([i, i], pa.int32())], schema=SCHEMA))
    assert [p.name for p in parts(tmp_path)] == ["part-00000.arrow", "part-00001.arrow", "part-00002.arrow"]
    assert [n for batch in batches(tmp_path) for n in batch.column("n").to_pylist()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_an_empty_table_can_be_read(tmp_path: Path):
    with TableWriter(tmp_path, SCHEMA):
        pass
    assert list(batches(tmp_path)) == []


def test_the_stat_cache_sees_a_changed_file(tmp_path: Path):
    file = tmp_path / "data"
    file.write_bytes(b"one")
    stats = StatCache(tmp_path / "stat.json")
    first = stats.digest(file)
    stats.save()
    assert StatCache(tmp_path / "stat.json").known == stats.known
    assert StatCache(tmp_path / "stat.json").digest(file) == first == digest_file(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert StatCache(tmp_path / "stat.json").digest(file) == digest_file(file) != first


def test_a_damaged_stat_cache_is_begun_anew(tmp_path: Path):
    (tmp_path / "data").write_bytes(b"one")
    (tmp_path / "stat.json").write_text("{")
    assert StatCache(tmp_path / "stat.json").digest(tmp_path / "data") == digest_file(tmp_path / "data")
