"""tokenize as a stage: what an edit costs, formats of the user's own, the gate, the mask report, datasets side by side."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from axolotl_core.artifacts import manifest
from axolotl_core.errors import DataError, ModelError, ParamsError
from axolotl_core.tokens import rowcache
from tests.conftest import ALPACA, edit, stage, write_jsonl

OWN = """\
from axolotl_core.prompts.example import Example, Format, Segment, answer


def load_sums(data, style):
    def read(row):
        return Example((Segment(row["instruction"] + " = "), answer(row["output"])))

    return Format("own", ("instruction",), read)
"""


def work(project: Path, name: str = "sums") -> tuple[int, int]:
    record = json.loads((project / "artifacts" / "keys" / "tokens" / f"{name}.json").read_text())
    return record["work"]["encoded"], record["work"]["reused"]


def tokens(project: Path, name: str = "sums") -> str:
    return manifest.artifact_digest(project / "artifacts" / "tokens" / name)


def test_an_edit_costs_the_rows_that_it_touched(project: Path, capsys: pytest.CaptureFixture):
    file = project / "data" / "sums.jsonl"
    stage("pack")
    assert work(project) == (24, 0)
    cold = tokens(project)
    os.utime(file, (1, 1))
    file.rename(project / "data" / "renamed.jsonl")
    stage("tokenize@sums", "datasets.sums.path=data/renamed.jsonl")
    assert work(project) == (0, 24)
    assert tokens(project) == cold
    (project / "data" / "renamed.jsonl").rename(file)
    write_jsonl(file, random.Random(1).sample(ALPACA, len(ALPACA)))
    stage("tokenize@sums", force=True)
    assert work(project) == (0, 24)
    write_jsonl(file, [*ALPACA, {"instruction": "more", "output": "rows"}])
    stage("tokenize@sums")
    assert work(project) == (1, 24)
    assert "25 samples, " in (told := capsys.readouterr().out)
    assert "1 rows encoded, 24 reused" in told
    appended = tokens(project)
    shutil.rmtree(project / ".axolotl" / "rows")
    stage("tokenize@sums", force=True)
    assert work(project) == (25, 0)
    assert tokens(project) == appended


def test_a_row_cache_that_cannot_be_written_is_told(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def full(folder, batch):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rowcache, "write_file", full)
    stage("tokenize@sums")
    assert "24 rows encoded, 0 reused; the row cache could not be written: [Errno 28] No space left on device" in capsys.readouterr().out


def test_another_tokenizer_or_prompt_reuses_nothing(project: Path):
    stage("tokenize@sums")
    stage("tokenize@sums", "train_on_inputs=true")
    assert work(project) == (24, 0)
    stage("tokenize@sums", "tokenizer.tokens=[<tool>]")
    assert work(project) == (24, 0)
    stage("tokenize@sums", force=True)
    assert work(project) == (0, 24)


def test_the_work_is_no_part_of_the_lineage(project: Path):
    stage("pack")
    lineage = json.loads((project / "artifacts" / "keys" / "packed.json").read_text())["lineage"]
    assert "work" not in lineage["tokens/sums"]


def test_the_same_rows_give_the_same_tokens_from_every_kind_of_file(project: Path):
    rows = [{"question": f"Which? {i}", "choices": ["a", "b, c"], "solution": f"b{i}"} for i in range(5)]
    (project / "data" / "rows.json").write_text(json.dumps(rows))
    write_jsonl(project / "data" / "rows.jsonl", rows)
    with (project / "data" / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "choices": json.dumps(row["choices"])} for row in rows)
    table = pa.Table.from_pylist([{**row, "explanation": None} for row in rows])
    pq.write_table(table, project / "data" / "rows.parquet")
    with pa.ipc.new_file(str(project / "data" / "rows.arrow"), table.schema) as out:
        out.write(table)
    digests = set()
    for suffix in ("json", "jsonl", "csv", "parquet", "arrow"):
        stage("tokenize@sums", f"datasets.sums.path=data/rows.{suffix}", "datasets.sums.type=explainchoice")
        digests.add(tokens(project))
    assert len(digests) == 1


RENAMED = "{source: article, target.0: summary}"


def test_lists_in_a_csv_file_are_lists(project: Path):
    (project / "data" / "rows.csv").write_text('source,target\n"[""One."", ""Two.""]","[""A"", ""B""]"\n')
    common = (
        "datasets.sums.type=summarizetldr",
        "datasets.sums.join={source: ' '}",
        "datasets.sums.rename={source: article, target.0: summary}",
    )
    stage("tokenize@sums", "datasets.sums.path=data/rows.csv", *common)
    first = tokens(project)
    write_jsonl(project / "data" / "rows.jsonl", [{"source": ["One.", "Two."], "target": ["A", "B"]}])
    stage("tokenize@sums", "datasets.sums.path=data/rows.jsonl", *common)
    assert tokens(project) == first
    with pytest.raises(DataError, match="rename would give a second column the name 'x'"):
        stage("tokenize@sums", "datasets.sums.path=data/rows.csv", common[0], "datasets.sums.rename={source: x, target: x}")


def test_what_is_wrong_is_told_whatever_the_number_of_processes(project: Path):
    (project / "model" / "chat_template.jinja").unlink()
    (project / "a.jinja").write_text("{{ m.content }")
    for processes in (1, 2):
        with pytest.raises(ModelError, match="the tokenizer has no chat template"):
            stage("tokenize@sums", "datasets.sums.type=chat_template", f"dataset_processes={processes}")
    with pytest.raises(ParamsError, match=r"params.yaml:4: datasets.sums.type: the chat template is not valid Jinja, line 1"):
        stage("tokenize@sums", "datasets.sums.type=chat_template", "datasets.sums.chat_template=a.jinja")


def test_columns_can_be_renamed_and_lists_joined(project: Path):
    write_jsonl(project / "data" / "sums.jsonl", [{"source": ["One.", "Two."], "target": ["A", "B"]}])
    stage(
        "tokenize@sums",
        "datasets.sums.type=summarizetldr",
        "datasets.sums.join={source: ' '}",
        "datasets.sums.rename={source: article, target.0: summary}",
    )
    from axolotl_core.tokens.samples import Samples
    from axolotl_core.tokens.tokenizer import read_tokenizer

    ids, _ = Samples(project / "artifacts" / "tokens" / "sums").sample(0)
    text = read_tokenizer(project / "artifacts" / "tokenizer").decode(ids.tolist())
    assert text == "USER: Summarize the following article as a TL;DR.\nOne. Two.\nASSISTANT:A<|im_end|>"
    with pytest.raises(
        DataError, match=r"data/sums.jsonl:1: field 'article' is a list, wanted text; `join: {article: ' '}` makes one of it"
    ):
        stage("tokenize@sums", "datasets.sums.type=summarizetldr", "datasets.sums.rename={source: article, target: summary}")
    with pytest.raises(DataError, match="data/sums.jsonl:1: rename would give a second column the name 'target'"):
        stage("tokenize@sums", "datasets.sums.type=summarizetldr", "datasets.sums.rename={source: target}")


def test_a_format_of_the_users_own_runs_again_when_it_is_edited(project: Path):
    (project / "my_sums.py").write_text(OWN)
    own = ("datasets.sums.type=my_sums.load_sums",)
    stage("tokenize@sums", *own)
    first = tokens(project)
    assert stage("tokenize@sums", *own) == 0
    edit(project / "my_sums.py", '" = "', '" is "')
    stage("tokenize@sums", *own)
    assert work(project) == (24, 0)
    assert tokens(project) != first


@pytest.mark.parametrize(
    ("old", "new", "error", "told"),
    [
        ('row["output"]', 'row["oops"]', DataError, r"data/sums.jsonl:1: my_sums.py:6: KeyError: 'oops'"),
        ("def load_sums", "def load_others", ParamsError, r"the format my_sums has no 'load_sums'; did you mean 'load_others'\?"),
        (
            "from axolotl_core",
            "from nowhere",
            ParamsError,
            r"my_sums.py:1: cannot be imported: ModuleNotFoundError: No module named 'nowhere",
        ),
        (
            'return Format("own", ("instruction",), read)',
            "return read",
            ParamsError,
            r"my_sums.py: load_sums returns function, wanted a Format",
        ),
        ("        return Example(", "        return (", DataError, r"my_sums.py: load_sums made tuple of a row, wanted an Example"),
        ("load_sums(data, style)", "load_sums(data)", ParamsError, r"my_sums.py:0: TypeError: load_sums\(\) takes 1 positional argument"),
        ('answer(row["output"])', "answer(None)", DataError, r"my_sums.py: load_sums made a segment of NoneType, wanted text"),
        ('" = ")', '" = ", role="human")', DataError, r"my_sums.py: load_sums gave a segment the role 'human'; there are prompt, system"),
        ('" = ")', '" = ", glue=True)', DataError, r"my_sums.py: load_sums glued the first segment, and there is none before it"),
        ("        return Example", "        assert not row\n        return Example", DataError, r"my_sums.py:6: AssertionError"),
        ("def read(row):", "def read(row:", ParamsError, r"my_sums.py:5: cannot be imported: SyntaxError"),
        (
            "        return Example",
            "        raise type('Oops', (Exception,), {})('no')\n        return Example",
            DataError,
            r"my_sums.py:6: Oops: no",
        ),
        ("        return Example", "        exit(3)\n        return Example", DataError, r"sums.jsonl:1: my_sums.py:6: SystemExit: 3"),
        (
            "        return Example",
            "        def half(n):\n            return n / 0\n        half(1)\n        return Example",
            DataError,
            r"sums.jsonl:1: my_sums.py:7: ZeroDivisionError: division by zero \(called from line 8 in read\)",
        ),
    ],
)
def test_a_mistake_in_it_is_told_with_its_line(project: Path, old: str, new: str, error: type, told: str):
    (project / "my_sums.py").write_text(OWN.replace(old, new))
    with pytest.raises(error, match=told):
        stage("tokenize@sums", "datasets.sums.type=my_sums.load_sums")


def test_dvc_watches_a_format_of_the_users_own(project: Path, axolotl):
    (project / "my_sums.py").write_text(OWN)
    edit(project / "params.yaml", "type: alpaca", "type: my_sums.load_sums")
    axolotl("upgrade", cwd=project)
    assert "        - my_sums.py\n" in (project / "dvc.yaml").read_text()
    axolotl("check", cwd=project)
    axolotl("stage", "fetch@sums", cwd=project)
    axolotl("stage", "fetch-tokenizer", cwd=project)
    under_dvc = {**os.environ, "DVC_STAGE": "tokenize@sums"}
    axolotl("stage", "tokenize@sums", "--only", cwd=project, env=under_dvc)
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("        - my_sums.py\n", ""))
    done = axolotl("stage", "tokenize@sums", "--only", "--force", cwd=project, env=under_dvc, status=2)
    assert "my_sums.py decides what becomes of a row, and dvc.yaml does not depend on it; run `axolotl upgrade`" in done.stderr


def test_answers_whose_end_is_not_trained_stop_the_stage_and_name_the_rows(project: Path):
    told = r"data/talks.json:1, .*data/talks.json:10 and 2 more rows: the end of an answer is never trained, .*<\|user\|> is not one token"
    with pytest.raises(DataError, match=told):
        stage("tokenize@talks", "datasets.talks.conversation=starchat")
    stage("tokenize@talks", "datasets.talks.conversation=starchat", "mask_check=warn")
    report = json.loads((project / "artifacts" / "metrics" / "masks" / "talks.json").read_text())
    assert (report["turns"], report["turns_whose_end_is_not_trained"]) == (12, 12)
    assert report["special_tokens_split"] == {"<|assistant|>": 12, "<|end|>": 12, "<|user|>": 12}
    stage("tokenize@talks", "datasets.talks.conversation=starchat", "tokenizer.tokens=[<|end|>]")


def test_pretokenized_rows_with_an_untrained_end_stop_it_too(project: Path):
    rows = [{"input_ids": [5, 6, 2], "attention_mask": [1, 1, 1], "labels": labels} for labels in ([-100, 6, 2], [-100, 6, -100])]
    write_jsonl(project / "data" / "sums.jsonl", rows)
    with pytest.raises(DataError, match="data/sums.jsonl:2: the end of an answer is never trained"):
        stage("tokenize@sums", "datasets.sums.type=pretokenized")
    write_jsonl(project / "data" / "sums.jsonl", [{**rows[0], "input_ids": [5, 600, 2]}])
    with pytest.raises(DataError, match="data/sums.jsonl:1: field 'input_ids' has 600, the tokenizer's ids are 0 to "):
        stage("tokenize@sums", "datasets.sums.type=pretokenized")
    write_jsonl(project / "data" / "sums.jsonl", [{"input_ids": [5], "labels": [5]}])
    told = r"format pretokenized .the dataset has no `type`. wants the field 'attention_mask', the row has input_ids, labels"
    edit(project / "params.yaml", "    type: alpaca\n", "")
    with pytest.raises(DataError, match=told):
        stage("tokenize@sums")


def test_ids_that_do_not_give_the_text_back_stop_it(project: Path):
    config = json.loads((project / "model" / "tokenizer.json").read_text())
    config["normalizer"] = {"type": "Lowercase"}
    (project / "model" / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="data/sums.jsonl:1, .* and 14 more rows: the ids do not give the text back"):
        stage("tokenize@sums")


def test_the_mask_report_counts(project: Path):
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "a</s> <|im_end|>", "output": "b"}, {"instruction": "a", "output": ""}])
    stage("tokenize@sums")
    report = json.loads((project / "artifacts" / "metrics" / "masks" / "sums.json").read_text())
    assert report["roles"]["assistant"]["share"] == 1
    assert report["roles"]["prompt"]["trained"] == 0
    assert report["special_tokens_in_fields"] == {"as_text": 1}
    assert (report["rows"], report["rows_without_trained_token"], report["turns_whose_end_is_not_trained"]) == (1, 1, 0)
    assert report["lengths"]["p50"] == report["tokens"] == report["longest"]
    lengths = (project / "artifacts" / "plots" / "lengths" / "sums.csv").read_text().splitlines()
    assert lengths[0] == "tokens,rows"
    assert sum(int(line.split(",")[1]) for line in lengths[1:]) == 1


def test_data_sets_side_by_side_give_the_same_bytes_and_tell_all_that_fails(project: Path):
    stage("pack")
    alone = [tokens(project, name) for name in ("sums", "talks")]
    for folder in ("artifacts", ".axolotl"):
        shutil.rmtree(project / folder)
    stage("pack", "machine.dataset_processes=2")
    assert [tokens(project, name) for name in ("sums", "talks")] == alone
    wrong = ("datasets.sums.type=completion", "datasets.talks.type=metharme", "datasets.talks.conversation=null")
    with pytest.raises(DataError) as caught:
        stage("tokenize", "machine.dataset_processes=2", *wrong)
    assert "data/sums.jsonl:1: format completion wants the field 'text'" in str(caught.value)
    assert "data/talks.json:1: format metharme wants the field 'prompt'" in str(caught.value)


def test_a_killed_process_of_a_data_set_is_told(project: Path):
    (project / "my_sums.py").write_text(OWN.replace("    def read(row):", "    def read(row):\n        import os; os._exit(9)"))
    code = "from axolotl_core.cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "stage",
        "tokenize",
        "--set",
        "datasets.sums.type=my_sums.load_sums",
        "--set",
        "dataset_processes=2",
    ]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "its process was killed, perhaps for want of memory; try machine.dataset_processes: 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_view_shows_what_is_trained(project: Path, axolotl):
    done = axolotl("view", "tokens", "--dataset", "talks", "--row", "2", cwd=project)
    assert done.stdout.startswith("talks, row 2: data/talks.json:2, ")
    assert "<|im_start|>assistant\n⟦green<|im_end|>⟧\n" in done.stdout
    coloured = axolotl("view", "tokens", "--dataset", "talks", "--color", cwd=project).stdout
    assert "\x1b[32mred\x1b[0m\x1b[32m\x1b[7m<|im_end|>\x1b[0m" in coloured
    axolotl("view", "tokens", "--dataset", "talks", "--html", "row.html", cwd=project)
    page = (project / "row.html").read_text()
    assert '<span class="trained">red</span><span class="trained special">&lt;|im_end|&gt;</span>' in page
    assert "talks, row 1" in page
    masks = axolotl("view", "masks", cwd=project).stdout
    assert "12 answers, 0 whose end is not trained" in masks
    assert "█" in masks
    assert "alpaca" in axolotl("cache", cwd=project).stdout
    assert "removed " in axolotl("cache", "--clear", cwd=project).stdout
    assert "0 B in " in axolotl("cache", cwd=project).stdout
    for arguments, told in (
        (("--row", "13", "--dataset", "talks"), "there is no row 13; the dataset has rows 1 to 12"),
        (("--dataset", "talk"), "no dataset is called 'talk'; did you mean 'talks'?; there are sums, talks"),
    ):
        assert told in axolotl("view", "tokens", *arguments, cwd=project, status=2 if "talk" in arguments else 1).stderr


def test_view_says_why_a_row_is_not_there(project: Path, axolotl):
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}])
    done = axolotl("view", "tokens", "--row", "2", cwd=project, status=1)
    assert "axolotl: data/sums.jsonl:2: row 2 was dropped: no trained token" in done.stderr
