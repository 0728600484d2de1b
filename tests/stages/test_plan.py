"""What an edit re-runs: declared here by hand, and met by `why`, by `axolotl stage` and by the real dvc, in both directions."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from axolotl_core.artifacts import record
from axolotl_core.cli.project import open_project
from axolotl_core.errors import DataError
from axolotl_core.params.params import SECTIONS, Params
from axolotl_core.stages import keys
from axolotl_core.stages.graph import STAGES, chosen, steps, upstream
from axolotl_core.stages.plan import Planned
from axolotl_core.stages.survey import Survey
from tests.conftest import ALPACA, PARAMS, TALKS, stage, write_jsonl

SUMS, TALKS_ = "fetch@sums tokenize@sums", "fetch@talks tokenize@talks"
ALL = "fetch@sums fetch@talks fetch-tokenizer fetch-model tokenize@sums tokenize@talks pack train evaluate merge export"
TRAIN = "train evaluate merge export"
PACK = f"pack {TRAIN}"
Edit = Callable[[Path], None]


def option(text: str, new: str) -> Edit:
    """Replace text of params.yaml that is there once."""

    def edit(project: Path) -> None:
        file = project / "params.yaml"
        assert file.read_text().count(text) == 1, text
        file.write_text(file.read_text().replace(text, new))

    return edit


def under(section: str, line: str) -> Edit:
    """Add an option to a section."""

    def edit(project: Path) -> None:
        text = (project / "params.yaml").read_text()
        empty, block = f"{section}: {{}}\n", f"\n{section}:\n"
        assert (empty in text) != (block in f"\n{text}")
        text = text.replace(empty, f"{section}:\n  {line}\n") if empty in text else f"\n{text}".replace(block, f"{block}  {line}\n")[1:]
        (project / "params.yaml").write_text(text)

    return edit


def in_dataset(name: str, line: str) -> Edit:
    return option(f"  {name}:\n", f"  {name}:\n    {line}\n")


def file(name: str, change: Callable[[bytes], bytes]) -> Edit:
    def edit(project: Path) -> None:
        (project / name).write_bytes(change((project / name).read_bytes()))

    return edit


EDITS: dict[str, tuple[Edit, str, str]] = {
    # what is edited: (edit, the steps that it is an ingredient of, the steps that are computed)
    "learning_rate": (option("learning_rate: 1e-2", "learning_rate: 2e-2"), "train", TRAIN),
    "num_epochs": (option("num_epochs: 2", "num_epochs: 3"), "train", TRAIN),
    "batch_size": (option("batch_size: 2", "batch_size: 3"), "train", TRAIN),
    "seed": (under("training", "seed: 7"), "train", TRAIN),
    "weight_decay": (under("training", "weight_decay: 0.1"), "train", TRAIN),
    "optimizer": (under("training", "optimizer: adafactor"), "train", TRAIN),
    "lr_scheduler": (under("training", "lr_scheduler: linear"), "train", TRAIN),
    "warmup_steps": (under("training", "warmup_steps: 2"), "train", TRAIN),
    "max_grad_norm": (under("training", "max_grad_norm: 0.1"), "train", TRAIN),
    "an option as its default": (under("training", "adam_beta1: 0.9"), "", ""),
    "eval_steps without early stopping": (under("training", "eval_steps: 3"), "", ""),
    "evaluation_strategy without early stopping": (under("training", "evaluation_strategy: epoch"), "", ""),
    "early stopping that stops nothing": (under("training", "early_stopping_patience: 9"), "train", "train export"),
    "watchdog": (under("training", "loss_watchdog_threshold: 100"), "", ""),
    "lora_r": (option("lora_r: 4", "lora_r: 2"), "train", TRAIN),
    "lora_alpha": (under("adapter", "lora_alpha: 8"), "train", TRAIN),
    "lora_dropout": (option("lora_dropout: 0.1", "lora_dropout: 0.2"), "train", TRAIN),
    "bfloat16": (under("model", "bfloat16: true"), "train", TRAIN),
    "resize to 32": (under("model", "resize_token_embeddings_to_32x: true"), "train evaluate merge", TRAIN),
    "trust_remote_code": (under("model", "trust_remote_code: true"), "fetch-model", "fetch-model"),
    "sequence_len": (option("sequence_len: 128", "sequence_len: 96"), "pack", PACK),
    "sample_packing": (option("sample_packing: true", "sample_packing: false"), "pack", PACK),
    "val_set_size": (option("val_set_size: 6", "val_set_size: 5"), "pack", PACK),
    "shuffle_seed": (under("packing", "shuffle_seed: 1"), "pack", PACK),
    "excess_length, nothing is too long": (under("packing", "excess_length: drop"), "pack", "pack"),
    "train_on_inputs": (under("prompt", "train_on_inputs: true"), "tokenize@sums tokenize@talks", f"tokenize@sums tokenize@talks {PACK}"),
    "mask_check": (under("prompt", "mask_check: warn"), "tokenize@sums tokenize@talks", "tokenize@sums tokenize@talks"),
    "type": (option("type: alpaca", "type: alpaca:chat"), "tokenize@sums export", f"tokenize@sums {PACK}"),
    "conversation": (option("conversation: chatml", "conversation: vicuna_v1.1"), "tokenize@talks export", f"tokenize@talks {PACK}"),
    "max_rows": (in_dataset("sums", "max_rows: 20"), "fetch@sums", f"{SUMS} {PACK}"),
    "max_rows above the rows": (in_dataset("sums", "max_rows: 99"), "fetch@sums", "fetch@sums"),
    "held_out": (in_dataset("talks", "held_out: true"), "pack", PACK),
    "pad_token": (
        under("tokenizer", "special_tokens: {pad_token: '<|im_start|>'}"),
        "fetch-tokenizer",
        f"fetch-tokenizer tokenize@sums tokenize@talks {TRAIN}",
    ),
    "eval_table_size": (option("eval_table_size: 1", "eval_table_size: 2"), "evaluate", "evaluate"),
    "eval_batch_size": (under("evaluation", "eval_batch_size: 2"), "", ""),
    "machine": (under("machine", "micro_batch_size: 2"), "", ""),
    "tracking": (under("tracking", "save_steps: 1"), "", ""),
    "a row more": (
        file("data/sums.jsonl", lambda data: data + b'{"instruction": "Add 9.", "output": "18"}\n'),
        "fetch@sums",
        f"{SUMS} {PACK}",
    ),
    "blanks in a row": (file("data/sums.jsonl", lambda data: data.replace(b'": "', b'":  "')), "fetch@sums", "fetch@sums"),
    "another answer": (
        file("data/talks.json", lambda data: data.replace(b"green", b"yellow")),
        "fetch@talks",
        f"{TALKS_} {PACK}",
    ),
    "a comment in a row that no format reads": (
        file("data/sums.jsonl", lambda data: data.replace(b"}", b', "note": 1}')),
        "fetch@sums",
        SUMS,
    ),
    "a touched file": (file("data/talks.json", lambda data: data), "", ""),
    "weights of the base": (
        file("model/model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        "fetch-model",
        f"fetch-model {TRAIN}",
    ),
    "blanks in a tokenizer's file": (  # base/ holds the small files of the model's folder as they are
        file("model/tokenizer_config.json", lambda data: data + b"\n"),
        "fetch-tokenizer fetch-model",
        f"fetch-tokenizer fetch-model {TRAIN}",
    ),
}
assert len(EDITS) >= 40


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Path]:
    """A project in which every stage has run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(model_folder, folder / "model")
        restore(folder)
        for target in ("export", "evaluate"):
            stage(target)
        yield folder


def restore(project: Path) -> None:
    """Params and data as they were."""
    (project / "data").mkdir(exist_ok=True)
    write_jsonl(project / "data" / "sums.jsonl", ALPACA)
    (project / "data" / "talks.json").write_text(json.dumps(TALKS), encoding="utf-8")
    (project / "params.yaml").write_text(PARAMS, encoding="utf-8")


def planned(*overrides: str) -> dict[str, Planned]:
    return {one.step.name: one for one in Survey(*open_project(Path("params.yaml"), overrides)).plan()}


def computed(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Bring everything up to date; which steps were computed, and not found."""
    capsys.readouterr()
    for target in ("export", "evaluate"):
        stage(target)
    lines = re.findall(rf"^({'|'.join(step.name for step in steps(('sums', 'talks')))})  +(.*)$", capsys.readouterr().out, re.MULTILINE)
    return {name for name, said in lines if said not in ("up to date", "restored from .axolotl/store")}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_runs_what_it_must_and_nothing_else(finished: Path, capsys: pytest.CaptureFixture[str], name: str, monkeypatch):
    monkeypatch.chdir(finished)
    edit, ingredient_of, runs = EDITS[name]
    model = {path: path.read_bytes() for path in (finished / "model").iterdir()}
    assert all(one.state == "up-to-date" for one in planned().values())
    try:
        edit(finished)
        found = planned()
        changed = {one for one, p in found.items() if any(c.kind != "input" or c.new is not None for c in p.because)}
        assert changed == set(ingredient_of.split())
        behind = {step.name for step in steps(("sums", "talks")) if any(s.name in changed for s in upstream([step], ("sums", "talks")))}
        assert {one for one, p in found.items() if p.state != "up-to-date"} == behind, "what may come out otherwise"
        assert computed(capsys) == set(runs.split()) <= behind
        assert all(one.state == "up-to-date" for one in planned().values())
    finally:
        restore(finished)
        for path, data in model.items():
            if path.read_bytes() != data:
                path.write_bytes(data)
        again = computed(capsys)
    assert again == set(), "what was computed before is found"


OF_SECTION = {
    "datasets": "tokenize@sums export",
    "tokenizer": "fetch-tokenizer",
    "prompt": "tokenize@sums tokenize@talks",
    "packing": "pack",
    "model": "train",
    "adapter": "train",
    "training": "train",
    "evaluation": "evaluate",
    "export": "export",
    "machine": "",
    "tracking": "",
}
"""Whose key an option of a section changes, unless it stands below."""
SOURCE = "path name data_files ds_type shards train_on_split revision streaming max_rows max_bytes text_split"
QUANTISED = "load_in_8bit load_in_4bit gptq gptq_groupsize gptq_model_v1"
EXCEPTIONS = {
    **{f"datasets.{option}": "fetch@sums" for option in SOURCE.split()},
    "datasets.held_out": "pack",
    "datasets.on_bad_row": "fetch@sums tokenize@sums",  # a row may be malformed JSON, or not what its format reads
    **dict.fromkeys(("model.base_model", "model.model_revision"), "fetch-tokenizer fetch-model"),
    **dict.fromkeys(
        ("model.model_type", "model.trust_remote_code", "model.base_model_ignore_patterns", "model.rope_scaling"), "fetch-model"
    ),
    **{f"model.{option}": "train evaluate" for option in QUANTISED.split()},
    "model.resize_token_embeddings_to_32x": "train evaluate merge",
} | {"model.base_model": "fetch-tokenizer fetch-model train"}  # whose name stands in the adapter's config
NO_MATTER = {
    "training.evaluation_strategy": "evaluations choose nothing without early stopping or load_best_model_at_end",
    "training.eval_steps": "as above",
    "training.evals_per_epoch": "as above",
    "training.metric_for_best_model": "as above",
    "training.greater_is_better": "as above",
    "training.loss_watchdog_threshold": "a run that ends with a result is the same with a watchdog",
    "training.loss_watchdog_patience": "as above",
    "evaluation.eval_batch_size": "sums over tokens are the same however many rows are summed at once",
}
CANDIDATES = (True, False, 5, 0.25, "x", "2025-05-01", ["x"], {"x": "y"}, {"user": ["x"]}, {"pad_token": "x"}, {"x": 5}, [5])
CANDIDATES += ({"rope_type": "yarn", "factor": 2.0},)


def other_value(kind: Any, option: str) -> Any:
    """A value of an option that is right by its type and not its default."""
    required = (
        {"path": "data/sums.jsonl"}
        if "path" in kind.model_fields
        else {"base_model": "./model"}
        if "base_model" in kind.model_fields
        else {}
    )
    literals = re.findall(r"'([^']*)'", str(kind.model_fields[option].annotation))
    for value in (*CANDIDATES, *literals):
        try:
            made = getattr(kind.model_validate({**required, option: value}), option)
        except ValueError:
            continue
        if made != getattr(kind.model_validate(required), option):
            return value
    raise AssertionError(f"no value for {option}")


def with_option(values: dict[str, Any], section: str, option: str, value: Any) -> Params:
    changed = json.loads(json.dumps(values))
    (changed["datasets"]["sums"] if section == "datasets" else changed.setdefault(section, {}))[option] = value
    return Params.model_validate(changed)


@pytest.mark.parametrize(("section", "option"), [(name, option) for name, kind in SECTIONS.items() for option in kind.model_fields])
def test_an_option_is_in_the_keys_of_the_stages_that_it_is_declared_for(section: str, option: str):
    values = {"datasets": {"sums": {"path": "data/sums.jsonl"}, "talks": {"path": "data/talks.json"}}, "model": {"base_model": "./model"}}
    before, after = Params.model_validate(values), with_option(values, section, option, other_value(SECTIONS[section], option))
    changed = {step.name for step in steps(("sums", "talks")) if keys.options(before, step) != keys.options(after, step)}
    name = f"{section}.{option}"
    assert changed == set() if name in NO_MATTER else changed == set(EXCEPTIONS.get(name, OF_SECTION[section]).split())


@pytest.mark.parametrize("name", [name for name in NO_MATTER if name.startswith("training.") and "watchdog" not in name])
def test_evaluations_are_in_the_key_where_they_choose(name: str):
    option = name.partition(".")[2]
    values = {
        "datasets": {"sums": {"path": "data/sums.jsonl"}},
        "model": {"base_model": "./model"},
        "training": {"early_stopping_patience": 2},
    }
    before, after = Params.model_validate(values), with_option(values, "training", option, other_value(SECTIONS["training"], option))
    (train,) = chosen("train", ("sums",))
    assert keys.options(before, train) != keys.options(after, train)


def test_what_a_stage_is_given_has_no_option_that_is_not_in_its_key(project: Path):
    """So that none can be read that does not re-run it."""
    params = open_project(Path("params.yaml"), ["datasets.sums.type=alpaca:chat", "model.trust_remote_code=true"])[1]
    (fetch,), (train,) = chosen("fetch@sums", params.datasets), chosen("train", params.datasets)
    with pytest.raises(AttributeError):
        keys.visible_params(params, fetch)["datasets"].type  # type: ignore[union-attr]  # noqa: B018
    with pytest.raises(AttributeError):
        keys.visible_params(params, train)["model"].trust_remote_code  # type: ignore[union-attr]  # noqa: B018
    assert {name for stage in STAGES for name in stage.sections} == set(SECTIONS) - {"machine", "tracking"}


def test_causes_have_the_names_of_options(project: Path):
    stage("pack")
    found = planned("prompt.train_on_inputs=true", "datasets.sums.type=alpaca:chat", "packing.sequence_len=64")
    names = {name: [cause.name for cause in one.because if cause.kind == "option"] for name, one in found.items()}
    assert names["tokenize@sums"] == ["datasets.sums.type", "prompt.train_on_inputs"]
    assert names["tokenize@talks"] == ["prompt.train_on_inputs"]
    assert names["pack"] == ["packing.sequence_len"]
    (project / "artifacts" / "keys" / "packed.json").unlink()
    (lost,) = planned()["pack"].because
    assert (lost.kind, lost.name, lost.new) == ("missing", "keys/packed.json", "the record of the artifact is missing or damaged")


def test_a_record_of_a_version_that_put_more_options_into_keys_holds(project: Path):
    stage("pack")
    for name, more in (
        ("packed", {"datasets": {"sums": {"type": "alpaca", "path": "x"}, "talks": {}}}),
        ("raw/sums", {"datasets": {"type": "x"}}),
    ):
        file = project / "artifacts" / "keys" / f"{name}.json"
        made = record.read(file)
        made["params"] = {section: {**values, **more.get(section, {})} for section, values in made["params"].items()}
        record.write(file, {**made, "key": "0" * 32})
    found = planned()
    assert {found[name].state for name in ("fetch@sums", "tokenize@sums", "pack")} == {"up-to-date"}


def test_a_row_that_a_format_cannot_read_is_skipped_where_params_say_so(project: Path):
    with (project / "data" / "sums.jsonl").open("a") as sums:
        sums.write('{"instruction": 1, "output": ["no text"]}\n')
    with pytest.raises(DataError):
        stage("tokenize@sums")
    stage("tokenize@sums", "datasets.sums.on_bad_row=skip")
    assert (project / "artifacts" / "tokens" / "sums" / "rejected.jsonl").is_file()


# the real dvc, which depends on sections: what it would call, and that a call computes nothing where the key is the same


def test_dvc_calls_the_stages_of_an_edited_section(finished: Path, monkeypatch):
    from dvc.repo import Repo

    monkeypatch.chdir(finished)
    commands = (["git", "init", "--quiet"], [*DVC, "init", "--quiet"], [*AXOLOTL, "upgrade"], [*DVC, "commit", "--force", "--quiet"])
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    (finished / ".dvcignore").write_text(".axolotl/\n")
    of_section = {name: {stage.name for stage in STAGES if name in stage.sections} for name in SECTIONS}
    for name, (edit, ingredient_of, _) in EDITS.items():
        model = {path: path.read_bytes() for path in (finished / "model").iterdir()}
        before = (finished / "params.yaml").read_text()
        try:
            edit(finished)
            called = set(Repo(".").status())
            edited = {
                key for key in SECTIONS if (finished / "params.yaml").read_text() != before and changed_section(before, key, finished)
            }
            by_section = {stage_name for key in edited for stage_name in of_section[key]}
            data = (
                {"fetch"}
                if (finished / "data").stat()
                and name in ("a row more", "blanks in a row", "another answer", "a comment in a row that no format reads")
                else set()
            )
            assert {one.partition("@")[0] for one in called} == by_section | data, name
            in_model = {
                "weights of the base",
                "blanks in a tokenizer's file",
            }  # which dvc does not watch: it lies outside the project's data
            assert name in in_model or {one.partition("@")[0] for one in ingredient_of.split()} <= by_section | data, name
        finally:
            restore(finished)
            for path, content in model.items():
                if path.read_bytes() != content:
                    path.write_bytes(content)


AXOLOTL = [sys.executable, "-c", "from axolotl_core.cli.main import main; main()"]
DVC = [sys.executable, "-m", "dvc"]


def changed_section(before: str, key: str, project: Path) -> bool:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    return yaml.load(before).get(key) != yaml.load((project / "params.yaml").read_text()).get(key)
