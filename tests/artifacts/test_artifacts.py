"""Keys, manifests, tables, and writing so that nothing is lost."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest

from axolotl_core.artifacts import lock, manifest, record, scratch, store, table
from axolotl_core.artifacts.key import canonical, digest_file, stage_key
from axolotl_core.artifacts.scratch import building, replace, sweep, write_atomically
from axolotl_core.artifacts.stats import StatCache
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
        (lambda a: (a / "manifest.json").unlink(), "is incomplete .it has no manifest.json.; run the stage that makes it"),
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
    with pytest.raises(ZeroDivisionError), building(tmp_path / "a") as folder:
        (folder / "x").write_text("half")
        raise ZeroDivisionError
    assert manifest.verify(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_new_artifact_takes_the_place_of_the_old(tmp_path: Path):
    sealed(tmp_path / "a", "old")
    with building(tmp_path / "a") as folder:
        sealed(folder / "artifact", "new")
        replace(folder / "artifact", tmp_path / "a")
    assert (tmp_path / "a" / "part.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_the_old_artifact(tmp_path: Path):
    sealed(tmp_path / "a", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with (
            pytest.raises(MachineError, match="the disk is full .*; the previous one was left as it was"),
            building(tmp_path / "a") as folder,
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
        with pytest.raises(MachineError, match="the disk is full"), building(tmp_path / "a") as folder:
            tensors = {"w": torch.zeros(4000)}
            save_file(tensors, folder / "x") if write == "safetensors" else torch.save(tensors, folder / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


KILLED = """
import os, signal, sys
from pathlib import Path
from axolotl_core.artifacts.scratch import building, write_atomically
from axolotl_core.artifacts import scratch
final = Path(sys.argv[1])
with building(final) as folder:
    (folder / "x").write_text("half")
    scratch.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
    write_atomically(final.with_name("small"), b"half")
"""


def test_what_a_killed_process_left_is_removed_and_what_is_alive_stays(tmp_path: Path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 3  # folder, its lock, the small file
    (tmp_path / ".a.of-the-user").write_text("")
    with building(tmp_path / "b") as mine:
        sweep(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([".a.of-the-user", mine.name, f"{mine.name}.lock"])


HOLDS = """
import sys, time
from pathlib import Path
from axolotl_core.artifacts import lock
lock.take(Path(sys.argv[1]))
print(1, flush=True)
time.sleep(60)
"""


def test_a_lock_is_of_a_process_and_ends_with_it(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path / "lock")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert lock.take(tmp_path / "lock") is None
        other.kill()
        other.wait()
    handle = lock.take(tmp_path / "lock")
    assert handle is not None
    lock.release(handle)


REPLACES = """
import sys
from pathlib import Path
from axolotl_core.artifacts.scratch import building, replace
final, n = Path(sys.argv[1]), sys.argv[2]
for _ in range(100):
    with building(final) as folder:
        (folder / "new").mkdir()
        (folder / "new" / "who").write_text(n)
        replace(folder / "new", final)
"""


@pytest.mark.parametrize("exchange", [True, False])
def test_two_that_replace_the_same_folder_do_not_meet(tmp_path: Path, exchange: bool):
    code = REPLACES if exchange else "from axolotl_core.artifacts import scratch; scratch._exchange = lambda a, b: False\n" + REPLACES
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a"), n], stderr=subprocess.PIPE) for n in "12"]
    assert [process.communicate()[1] for process in both] == [b"", b""]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "who").read_text() in "12"


def test_there_is_no_moment_without_the_artifact(tmp_path: Path):
    with building(tmp_path / "a") as folder:
        sealed(folder / "new")
        replace(folder / "new", tmp_path / "a")
    writer = subprocess.Popen([sys.executable, "-c", REPLACES, str(tmp_path / "a"), "3"])
    while writer.poll() is None:
        assert (tmp_path / "a").is_dir()
    assert writer.returncode == 0


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder on another file system, as a volume of a container is."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        if os.stat(folder).st_dev == os.stat(Path(__file__)).st_dev:
            pytest.fail("/dev/shm is not a file system of its own")
        yield Path(folder)


def test_an_artifact_that_is_a_link_to_another_disk_stays_there(tmp_path: Path, other_disk: Path):
    (tmp_path / "artifacts").symlink_to(other_disk)
    for text in ("old", "new"):
        with building(tmp_path / "artifacts" / "a") as folder:
            assert os.stat(folder).st_dev == os.stat(other_disk).st_dev
            sealed(folder / "artifact", text)
            (folder / "csv").write_text(text)
            replace(folder / "artifact", tmp_path / "artifacts" / "a")
            replace(folder / "csv", tmp_path / "here.csv")
    assert (other_disk / "a" / "part.txt").read_text() == (tmp_path / "here.csv").read_text() == "new"


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scratch.lock, "own", closed)
    told = r"a: cannot be written \(Read-only file system\); make the folder writable; the previous one"
    with pytest.raises(MachineError, match=told):
        write_atomically(tmp_path / "a", b"x")
    with pytest.raises(MachineError, match=told), building(tmp_path / "a"):
        pass


def closed(path: Path) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


MADE = {"stage": "s", "revision": 1, "key": "k", "params": {}, "inputs": {}, "output": "o", "also": {}, "lineage": {}}


def test_a_record_that_is_not_as_it_was_written_is_refused(tmp_path: Path):
    record.write(tmp_path / "r.json", MADE)
    assert record.read(tmp_path / "r.json") == MADE
    text = (tmp_path / "r.json").read_text()
    for damage in (text.replace('"k"', '"l"'), "", "[]", text[:40], text.replace('"also": {}', '"also": []')):
        (tmp_path / "r.json").write_text(damage)
        with pytest.raises(ArtifactError, match=r"r.json: damaged, it is not what its stage wrote; `dvc pull .*` or run its stage again"):
            record.read(tmp_path / "r.json")
    with pytest.raises(ArtifactError, match="missing.json: is missing"):
        record.read(tmp_path / "missing.json")


def test_a_result_is_found_by_its_key_and_a_damaged_one_is_not(tmp_path: Path):
    output = sealed(tmp_path / "a")
    (tmp_path / "a" / "stray").write_text("no part of it")
    (tmp_path / "m.json").write_text("{}")
    made = {**MADE, "output": output, "also": {"metrics/m.json": digest_file(tmp_path / "m.json")}}
    store.put(tmp_path / "store", made, tmp_path / "a", {"metrics/m.json": tmp_path / "m.json"})
    found = store.find(tmp_path / "store", "k")
    assert found is not None
    assert found.record == made
    assert sorted(p.name for p in found.artifact.iterdir()) == ["manifest.json", "part.txt"]
    assert (found.artifact / "part.txt").samefile(tmp_path / "a" / "part.txt")
    assert store.find(tmp_path / "store", "other") is None
    (found.artifact / "part.txt").write_text("hallo")
    assert store.find(tmp_path / "store", "k") is None
    assert list((tmp_path / "store").iterdir()) == []


def test_of_results_those_used_longest_ago_go_and_those_that_take_nothing_stay(tmp_path: Path):
    for i, name in enumerate(("new", "old", "gone")):
        store.put(tmp_path / "store", {**MADE, "output": sealed(tmp_path / name), "key": name}, tmp_path / name, {})
        if name != "gone":  # what an artifact has too takes nothing but its record
            shutil.rmtree(tmp_path / name)
        os.utime(tmp_path / "store" / name, (10 - i, 10 - i))
    found = store.results(tmp_path / "store")
    assert [result.folder.name for result in found] == ["new", "old", "gone"]
    assert found[2].bytes < found[1].bytes == found[0].bytes
    assert store.superseded(found, most=0) == found
    assert store.superseded(found, most=found[0].bytes) == found[1:]
    assert store.superseded(found) == []


def test_a_view_has_what_the_manifest_lists_and_nothing_else(tmp_path: Path):
    sealed(tmp_path / "a")
    (tmp_path / "a" / "part-2.txt").write_text("stray")
    manifest.view(tmp_path / "a", tmp_path / "view")
    assert sorted(p.name for p in (tmp_path / "view").iterdir()) == ["manifest.json", "part.txt"]
    assert (tmp_path / "view" / "part.txt").read_text() == "hello"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 1, "format": "a", "files": {}}',
        '{"version": 1, "format": "a", "files": [{"file": "x"}]}',
        '{"version": 1, "format": "a", "files": [{"file": "../x", "bytes": 1, "xxh3": "0"}]}',
        '{"version": 1, "format": "a", "files": [{"file": "/etc/passwd", "bytes": 1, "xxh3": "0"}]}',
        '{"version": 1, "format": "a", "files": [{"file": "x", "bytes": "1", "xxh3": "0"}]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_manifest_by_its_shape_is_refused(tmp_path: Path, text: str):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest.json: damaged, it is not a manifest; delete"):
        manifest.verify(tmp_path)


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


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that have just been written are old enough for their digests to be remembered."""
    monkeypatch.setattr("axolotl_core.artifacts.stats.TICK_NS", -(10**12))


def test_digests_are_remembered(tmp_path: Path, settled, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "data"
    file.write_bytes(b"one")
    stats = StatCache(tmp_path / "stat.json")
    first = stats.digest(file)
    stats.save()
    again = StatCache(tmp_path / "stat.json")
    assert again.known == stats.known != {}
    monkeypatch.setattr("axolotl_core.artifacts.stats.digest_open", None)
    assert again.digest(file) == first == digest_file(file)


def test_the_digest_of_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path):
    (tmp_path / "data").write_bytes(b"one")
    stats = StatCache(tmp_path / "stat.json")
    assert stats.digest(tmp_path / "data") == digest_file(tmp_path / "data")
    assert stats.known == {}


def test_a_change_under_the_same_size_time_and_inode_is_seen(tmp_path: Path, settled):
    file = tmp_path / "data"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    stats = StatCache(tmp_path / "stat.json")
    first, before = stats.digest(file), os.stat(file)
    time.sleep(0.02)  # two ticks of the kernel's clock
    with file.open("r+b") as inside:
        inside.write(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(file)
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert stats.digest(file) == digest_file(file) != first


def test_what_is_asked_for_anew_is_read(tmp_path: Path, settled):
    file = tmp_path / "data"
    file.write_bytes(b"one")
    stats = StatCache(tmp_path / "stat.json")
    stats.digest(file)
    stats.known = {name: (stamp, "0" * 32) for name, (stamp, _) in stats.known.items()}
    stats.save()
    assert StatCache(tmp_path / "stat.json").digest(file) == "0" * 32
    assert StatCache(tmp_path / "stat.json", anew=True).digest(file) == digest_file(file)


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"files": {"a": 1}}', b"\xff", None])
def test_a_damaged_stat_cache_is_begun_anew(tmp_path: Path, settled, damage: bytes | None):
    file = tmp_path / "data"
    file.write_bytes(b"one")
    stats = StatCache(tmp_path / "stat.json")
    found = stats.digest(file)
    stats.save()
    text = (tmp_path / "stat.json").read_bytes()
    (tmp_path / "stat.json").write_bytes(text.replace(found[:8].encode(), b"00000000") if damage is None else damage)
    assert StatCache(tmp_path / "stat.json").known == {}
    assert StatCache(tmp_path / "stat.json").digest(file) == digest_file(file)


def test_a_disk_that_is_closed_costs_the_stat_cache_and_nothing_else(tmp_path: Path, settled, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").write_bytes(b"one")
    stats = StatCache(tmp_path / "stat.json")
    stats.digest(tmp_path / "data")
    monkeypatch.setattr(scratch.lock, "own", closed)
    stats.save()
    assert not (tmp_path / "stat.json").exists()
