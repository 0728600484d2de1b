"""Models and tokenizers that bring code: none of it is run, nobody is asked, and what cannot be read is one sentence."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from axolotl_core.errors import AxolotlError
from tests.conftest import stage

CODE = """
from pathlib import Path
Path({marker!r}).write_text("executed")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig): model_type = "evil"
class Model(LlamaForCausalLM): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
"""
AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(project: Path) -> Path:
    """A file that the code of the model would write."""
    file = project / "executed"
    (project / "model" / "evil.py").write_text(CODE.format(marker=str(file)))
    return file


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def fetched(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What `axolotl stage fetch` says as an error, asked by nobody; anything but an error of the tree is a traceback."""
    asked: list[object] = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "y")
    told = ""
    try:
        stage("fetch", *options)
    except AxolotlError as error:
        told = str(error)
    assert asked == []
    return told


@pytest.mark.parametrize("trust", [False, True])
def test_code_beside_a_known_model_is_not_run(project: Path, marker: Path, trust: bool, monkeypatch: pytest.MonkeyPatch):
    change(project / "model" / "config.json", auto_map=AUTO_MAP)
    change(project / "model" / "tokenizer_config.json", auto_map=AUTO_MAP)
    assert fetched(monkeypatch, f"model.trust_remote_code={str(trust).lower()}") == ""
    assert not marker.exists()


@pytest.mark.parametrize("of", ["model", "tokenizer"])
def test_a_model_or_tokenizer_that_is_nothing_but_code_is_one_sentence(
    project: Path, marker: Path, of: str, monkeypatch: pytest.MonkeyPatch
):
    if of == "model":
        change(project / "model" / "config.json", auto_map=AUTO_MAP, model_type="evil", architectures=["Model"])
    else:
        change(project / "model" / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="Tokenizer")
        (project / "model" / "tokenizer.json").unlink()
        change(project / "model" / "config.json", auto_map=AUTO_MAP, model_type="evil")
    assert "./model: " in fetched(monkeypatch)
    assert not marker.exists()


def hostile_pickle(marker: Path) -> bytes:
    return pickle.dumps({"model.embed_tokens.weight": Payload(marker)})


@pytest.mark.parametrize("what", ["payload", "torch payload", "text", "cut", "empty", "no tensors"])
def test_weights_that_are_no_weights_are_one_sentence(project: Path, marker: Path, what: str, monkeypatch: pytest.MonkeyPatch):
    folder = project / "model"
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    match what:
        case "payload":
            file.write_bytes(hostile_pickle(marker))
        case "torch payload":
            torch.save({"model.embed_tokens.weight": Payload(marker)}, file)
        case "cut":
            torch.save({"model.embed_tokens.weight": torch.zeros(512, 32)}, file)
            file.write_bytes(file.read_bytes()[:-300])
        case "no tensors":
            torch.save([1, 2, 3], file)
        case _:
            file.write_bytes(b"" if what == "empty" else b"these are no weights")
    told = fetched(monkeypatch)
    assert told.startswith("./model: cannot be read as a model: ")
    if "payload" in what:
        assert "holds more than weights, which is never unpickled; convert it to safetensors where you trust it" in told
    assert not marker.exists()


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"model_type": 3}', "[" * 50_000, '{"model_type": "llama", "hidden_size": "many"}'])
def test_a_config_that_is_none_is_one_sentence(project: Path, text: str, monkeypatch: pytest.MonkeyPatch):
    (project / "model" / "config.json").write_text(text)
    assert "model" in fetched(monkeypatch)


@pytest.mark.parametrize("text", ["[]", "{", '{"model": {"type": "BPE"}}', '{"added_tokens": 3}', "[" * 50_000])
def test_a_tokenizer_that_is_none_is_one_sentence(project: Path, text: str, monkeypatch: pytest.MonkeyPatch):
    (project / "model" / "tokenizer.json").write_text(text)
    assert "./model: transformers finds no tokenizer there: " in fetched(monkeypatch)


def test_a_module_beside_params_yaml_that_no_type_names_is_not_run(project: Path, marker: Path):
    for name in ("alpaca", "json", "datasets", "tokenizers", "torch", "stages_", "sitecustomize", "alpacca"):
        (project / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    train = ["axolotl", "stage", "train", "--set", "training.max_steps=1", "--set", "machine.num_processes=2"]
    done = subprocess.run(train, cwd=project, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        ["axolotl", "check", "--set", "datasets.sums.type=alpacca"], cwd=project, capture_output=True, text=True, check=False
    )
    assert "no format is called 'alpacca'" in done.stderr
    assert not marker.exists()
