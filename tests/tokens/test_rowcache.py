"""The row cache: what was seen is not encoded again, the bytes are those of a cold run, and nothing breaks it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.table import parts
from axolotl_core.cli.cache_ import _bytes
from axolotl_core.errors import ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.sources.raw import SourceRow, write_raw
from axolotl_core.tokens import rowcache
from axolotl_core.tokens.contexts import contexts, trim
from axolotl_core.tokens.rowcache import RowCache
from axolotl_core.tokens.store import Encoder, Written, write_tokens

ROWS = [{"instruction": f"Add {i}", "output": f"{i} </s>" * (i % 5)} for i in range(2500)]
COUNT = iter(range(10**6))


def run(tmp_path: Path, tokenizer: Path, rows: list[dict], cache: Path | None, processes: int = 1, **data) -> tuple[Written, list[str]]:
    """tokens of the rows, and the digests of the files."""
    home = tmp_path / str(next(COUNT))
    sources = write_raw(home / "raw", (SourceRow("d.jsonl", i, row) for i, row in enumerate(rows, 1)), "d.jsonl")["sources"]
    (home / "tokens").mkdir()
    encoder = Encoder(home / "raw", sources, tokenizer, Dataset(path="d.jsonl", **{"type": "alpaca", **data}), False)
    written = write_tokens(home / "tokens", encoder, processes, RowCache(cache or home / "rows", {"dataset": "d", "type": "alpaca"}))
    return written, [digest_file(part) for part in parts(home / "tokens")]


def test_only_new_rows_are_encoded_and_the_bytes_are_those_of_a_cold_run(tmp_path: Path, tokenizer_folder: Path):
    cache = tmp_path / "cache"
    assert run(tmp_path, tokenizer_folder, ROWS, cache)[0].encoded == 2500
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    edited = [*ROWS[:1200], {"instruction": "new", "output": "row"}, *ROWS[1201:]]
    cases = {
        "same": (ROWS, 0),
        "reordered": (shuffled, 0),
        "appended": ([*ROWS, {"instruction": "x", "output": "y"}], 1),
        "edited": (edited, 1),
    }
    for name, (rows, new) in cases.items():
        for processes in (1, 2):
            written, digests = run(tmp_path, tokenizer_folder, rows, cache, processes)
            cold, wanted = run(tmp_path, tokenizer_folder, rows, None)
            assert (written.encoded, written.reused) == (new if processes == 1 else 0, len(rows) - (new if processes == 1 else 0)), name
            assert digests == wanted, name
            assert written.facts == cold.facts, name
            assert written.report.facts(False) == cold.report.facts(False), name


def test_dropped_rows_are_remembered_too_and_malformed_ones_are_not(tmp_path: Path, tokenizer_folder: Path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}, {"question": "a"}]
    cache = tmp_path / "cache"
    run(tmp_path, tokenizer_folder, rows, cache, on_bad_row="skip")
    written, _ = run(tmp_path, tokenizer_folder, rows, cache, on_bad_row="skip")
    assert (written.encoded, written.reused) == (1, 2)
    assert written.facts["dropped"] == {"no trained token": 1, "malformed": 1}


def test_labels_that_are_not_the_ids_are_not_kept(tmp_path: Path, tokenizer_folder: Path):
    rows = [{"input_ids": [5, 6], "attention_mask": [1, 1], "labels": labels} for labels in ([-100, 6], [-100, 7])]
    cache = tmp_path / "cache"
    first = run(tmp_path, tokenizer_folder, rows, cache, type="pretokenized")
    again = run(tmp_path, tokenizer_folder, rows, cache, type="pretokenized")
    assert again[1] == first[1]
    assert (again[0].encoded, again[0].reused) == (1, 1)


def test_a_damaged_file_is_thrown_away_and_its_rows_encoded_again(tmp_path: Path, tokenizer_folder: Path):
    cache = tmp_path / "cache"
    _, wanted = run(tmp_path, tokenizer_folder, ROWS, cache)
    (file,) = cache.glob("*.arrow")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    written, digests = run(tmp_path, tokenizer_folder, ROWS, cache)
    assert written.encoded == 2500
    assert digests == wanted


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    _, wanted = run(tmp_path, tokenizer_folder, ROWS, None)

    def full(folder, batch):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(rowcache, "write_file", full)
        assert run(tmp_path, tokenizer_folder, ROWS, cache)[1] == wanted
    assert list(cache.glob("*.arrow")) == []
    assert list(cache.glob(".new*")) == []
    assert run(tmp_path, tokenizer_folder, ROWS, cache)[0].encoded == 2500


KILLED = """
import sys
from pathlib import Path
from axolotl_core.params.datasets import Dataset
from axolotl_core.tokens import rowcache
from axolotl_core.tokens.rowcache import RowCache
from axolotl_core.tokens.store import Encoder, write_tokens
rowcache.FILE_TOKENS = 20_000
home, tokenizer, cache = map(Path, sys.argv[1:])
home.joinpath("out").mkdir(exist_ok=True)
print("started", flush=True)
write_tokens(home / "out", Encoder(home / "raw", ["d"], tokenizer, Dataset(path="d", type="alpaca"), False), 1, RowCache(cache, {}))
"""


def test_a_kill_leaves_whole_files_only_and_two_at_once_do_not_disturb_each_other(tmp_path: Path, tokenizer_folder: Path):
    cache, home = tmp_path / "cache", tmp_path / "killed"
    rows = [{"instruction": f"Add {i}", "output": f"{i} is a number " * 20} for i in range(6000)]
    write_raw(home / "raw", (SourceRow("d", i, row) for i, row in enumerate(rows, 1)), "d")

    def start(folder: Path) -> subprocess.Popen:
        folder.mkdir(exist_ok=True)
        if not (folder / "raw").exists():
            (folder / "raw").symlink_to(home / "raw")
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(tokenizer_folder), str(cache)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        return process

    for files in (0, 1, 2):  # killed before the first file of the cache, after it, after the second
        process = start(home)
        while process.poll() is None and len(list(cache.glob("*.arrow"))) < files:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert all(digest_file(file) == file.stem for file in cache.glob("*.arrow"))
    assert list(cache.glob("*.arrow"))  # and what was encoded before the kill is kept
    both = [start(tmp_path / name) for name in ("one", "two")]
    assert [process.wait() for process in both] == [0, 0]
    assert [digest_file(p) for p in parts(tmp_path / "one" / "out")] == [digest_file(p) for p in parts(tmp_path / "two" / "out")]
    written, digests = run(tmp_path, tokenizer_folder, rows, cache)
    assert written.encoded == 0
    assert digests == [digest_file(p) for p in parts(tmp_path / "one" / "out")]
    assert list(cache.glob(".new*")) == []  # what the killed ones left is swept


def test_many_small_files_become_one(tmp_path: Path, tokenizer_folder: Path):
    cache = tmp_path / "cache"
    for n in range(12):
        run(tmp_path, tokenizer_folder, ROWS[: 20 * (n + 1)], cache)
    assert len(list(cache.glob("*.arrow"))) <= rowcache.MOST_FILES
    assert run(tmp_path, tokenizer_folder, ROWS[:240], cache)[0].encoded == 0


def test_the_cache_is_shown_and_trimmed_from_the_longest_unused(tmp_path: Path, tokenizer_folder: Path):
    for n, name in enumerate(("old", "new")):
        run(tmp_path, tokenizer_folder, ROWS[:100], tmp_path / "rows" / name)
        os.utime(tmp_path / "rows" / name, (n + 1, n + 1))
    found = contexts(tmp_path / "rows")
    assert [(c.folder.name, c.dataset, c.rows) for c in found] == [("new", "d", 100), ("old", "d", 100)]
    assert trim(found, found[0].bytes) == found[1].bytes
    assert [c.folder.name for c in contexts(tmp_path / "rows")] == ["new"]


def test_sizes(tmp_path: Path):
    assert [_bytes(text) for text in ("0", "10b", "500M", "1.5 GiB", "2tb")] == [0, 10, 500 * 10**6, 15 * 10**8, 2 * 10**12]
    for text in ("much", "10"):  # ten bytes would be nearly all of it
        with pytest.raises(ParamsError, match=f"--trim {text}: got no size, wanted a number with its unit such as 500M or 10G"):
            _bytes(text)


def test_about_says_what_a_context_is(tmp_path: Path, tokenizer_folder: Path):
    run(tmp_path, tokenizer_folder, ROWS[:10], tmp_path / "cache")
    assert json.loads((tmp_path / "cache" / "about.json").read_text()) == {"dataset": "d", "type": "alpaca"}
