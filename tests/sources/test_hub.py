"""Datasets and models of a hub, with the real client libraries against a hub on this machine."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ALPACA, edit, write_jsonl
from tests.fake_hub import COMMIT, hub


@pytest.fixture
def served(project: Path, tmp_path_factory: pytest.TempPathFactory):
    """The project with its model and one dataset on a hub instead of on the disk; yields the environment."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "datasets" / "me" / "sums").mkdir(parents=True)
    write_jsonl(folder / "datasets" / "me" / "sums" / "train.jsonl", ALPACA)
    shutil.move(project / "model", folder / "models" / "me" / "tiny")
    edit(project / "params.yaml", "data/sums.jsonl", "me/sums")
    edit(project / "params.yaml", "./model", "me/tiny")
    home = tmp_path_factory.mktemp("home")
    with hub(folder) as url:
        yield {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def test_a_run_from_the_hub_pins_the_commit_and_keeps_no_second_copy(project: Path, served: dict, axolotl):
    axolotl("stage", "train", "--set", "max_steps=2", cwd=project, env=served)
    assert json.loads((project / "artifacts" / "raw" / "sums" / "manifest.json").read_text())["rows"] == len(ALPACA)
    pin = json.loads((project / "artifacts" / "base" / "pin.json").read_text())
    assert (pin["kind"], pin["place"], pin["commit"]) == ("hub", "me/tiny", COMMIT)
    assert not list((project / "artifacts" / "base").glob("*.safetensors"))
    assert (project / "artifacts" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("datasets.sums.path=me/none", "me/none: neither a file or folder here nor a dataset of the hub"),
        ("datasets.sums.train_on_split=test", "me/sums: has no split 'test'; it has train; set train_on_split"),
        ("datasets.sums.name=small", "me/sums: BuilderConfig 'small' not found"),
    ],
)
def test_what_the_hub_does_not_have_is_told(project: Path, served: dict, axolotl, override: str, told: str):
    done = axolotl("stage", "fetch@sums", "--set", override, cwd=project, env=served, status=1)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_the_hub_does_not_have_is_told(project: Path, served: dict, axolotl):
    done = axolotl("stage", "fetch-model", "--set", "base_model=me/none", cwd=project, env=served, status=1)
    assert done.stderr.endswith("axolotl: me/none: neither a file or folder here nor a repository of the hub\n")


def test_no_network_is_told_in_one_sentence(project: Path, served: dict, axolotl):
    closed = served | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    names = ("fetch@sums", "fetch-model", "fetch-tokenizer")
    with ThreadPoolExecutor() as pool:  # the clients try again and again before they give up
        told = pool.map(lambda name: axolotl("stage", name, cwd=project, env=closed, status=1).stderr, names)
    for text in told:
        last = text.strip().splitlines()[-1]
        assert last.startswith("axolotl: me/")
        assert "the hub cannot be reached" in last or "transformers finds no tokenizer there" in last
        assert "Traceback" not in text


def test_a_streamed_data_set_stops_where_it_is_told_to(project: Path, served: dict, axolotl):
    streamed = ("--set", "datasets.sums.streaming=true", "--set", "datasets.sums.max_rows=7")
    axolotl("stage", "tokenize@sums", *streamed, cwd=project, env=served)
    facts = json.loads((project / "artifacts" / "raw" / "sums" / "manifest.json").read_text())
    assert facts["rows"] == 7
    done = axolotl("stage", "fetch@sums", *streamed[:2], cwd=project, env=served, status=2)
    assert "streaming is true, but neither max_rows nor max_bytes says where to stop, and an artifact is finite; set one" in done.stderr
