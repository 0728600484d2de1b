"""A chat with the trained model: the tokenizer's own chat template, replies in pieces as they are made."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, TextIteratorStreamer

from axolotl_core.adapters.trained import load_trained
from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.key import StatCache
from axolotl_core.errors import ModelError
from axolotl_core.models.load import load_model
from axolotl_core.models.pin import weights_folder
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Arguments of transformers' generate."""
        common = {"max_new_tokens": self.max_new_tokens, "repetition_penalty": self.repetition_penalty}
        if self.temperature == 0:
            return common | {"do_sample": False}
        return common | {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}


@dataclass
class Chat:
    """`say` answers and remembers. raw: every prompt stands alone, without a template."""

    model: Any
    tokenizer: Any
    sampling: Sampling
    system: str | None = None
    raw: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.sampling.seed)
        if self.system:
            self.messages.append({"role": "system", "content": self.system})
        if not self.raw and not self.tokenizer.chat_template:
            raise ModelError("the tokenizer has no chat template; use --raw and write the prompt as the training data has it")

    def say(self, prompt: str) -> Iterator[str]:
        """The reply in pieces."""
        ids_1T = self._ids(prompt)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        settings = self.sampling.settings() | {"streamer": streamer, "use_cache": True, "pad_token_id": self.tokenizer.pad_token_id}
        settings |= {"eos_token_id": self.tokenizer.eos_token_id, "attention_mask": torch.ones_like(ids_1T)}
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                self.model.generate(input_ids=ids_1T, **settings)
            except (RuntimeError, ValueError, IndexError) as error:
                failed.append(error)
            finally:
                streamer.end()  # whatever happens, the reader below must not wait for ever

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        said = ""
        for piece in streamer:
            said += piece
            yield piece
        thread.join()
        if failed:
            raise ModelError(f"no reply could be made: {' '.join(str(failed[0]).split())[:200]}")
        self.messages.append({"role": "assistant", "content": said})

    def _ids(self, prompt: str) -> torch.Tensor:
        if self.raw:
            ids = self.tokenizer(prompt)["input_ids"]
        else:
            self.messages.append({"role": "user", "content": prompt})
            try:
                text = self.tokenizer.apply_chat_template(self.messages, add_generation_prompt=True, tokenize=False)
            except TemplateError as error:
                raise ModelError(f"the chat template refuses these messages: {error}") from None
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids], device=self.model.device)


def open_chat(
    root: Path,
    artifacts: Path,
    stats: StatCache,
    which: str,
    machine: Machine,
    sampling: Sampling,
    *,
    quantise: Model,
    system: str | None,
    raw: bool,
) -> Chat:
    """which: `adapter` (base and adapter), `merged` or `base`. Raises ArtifactError when its stage has not run."""
    for name in {"adapter": ("tokenizer", "adapter", "base"), "merged": ("tokenizer", "merged"), "base": ("tokenizer", "base")}[which]:
        manifest.verify(artifacts / name)
    tokenizer = AutoTokenizer.from_pretrained(artifacts / "tokenizer")
    settings: dict[str, Any] = {"vocabulary": len(tokenizer), "packed": False}
    if which == "merged":
        model = load_model(artifacts / "merged", machine, **settings).model
    else:
        base = weights_folder(artifacts / "base", root, stats)
        loaded = (
            load_model(base, machine, quantise=quantise, **settings)
            if which == "base"
            else load_trained(artifacts / "adapter", base, machine, quantise=quantise, **settings)
        )
        model = loaded.model
    return Chat(model.eval(), tokenizer, sampling, system, raw)
