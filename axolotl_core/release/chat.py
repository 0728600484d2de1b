"""A chat with the trained model: asked as its training data was written, replies in pieces as they are made."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TextIteratorStreamer

from axolotl_core.adapters.trained import load_to_run, load_trained
from axolotl_core.artifacts.stats import StatCache
from axolotl_core.errors import DataError, ModelError
from axolotl_core.models.embeddings import embedding_rows
from axolotl_core.models.forward import unwrap
from axolotl_core.models.pin import open_pinned
from axolotl_core.params.datasets import Dataset
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.prompts.template import ChatTemplate
from axolotl_core.release.prompting import prompting_of
from axolotl_core.tokens.tokenizer import read_tokenizer


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
    """`say` answers and remembers. stops: ids that end a reply; template: None where there is none; raw: every prompt stands
    alone, without a template."""

    model: Any
    tokenizer: Any
    sampling: Sampling
    stops: Sequence[int]
    template: ChatTemplate | None = None
    system: str | None = None
    raw: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.sampling.seed)
        self.reset()
        if not self.raw and self.template is None:
            raise ModelError("the tokenizer has no chat template; use --raw and write the prompt as the training data has it")

    def reset(self, system: str | None = None) -> None:
        """Forget what was said; system: another system message, an empty one for none."""
        self.system = self.system if system is None else system
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def say(self, prompt: str) -> Iterator[str]:
        """The reply in pieces."""
        ids_1T = self._ids(prompt)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        settings = self.sampling.settings() | {"streamer": streamer, "use_cache": True, "pad_token_id": self.tokenizer.pad_token_id}
        settings |= {"eos_token_id": list(self.stops), "attention_mask": torch.ones_like(ids_1T)}
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                self.model.generate(input_ids=ids_1T, **settings)
            except (RuntimeError, ValueError, LookupError, OSError) as error:
                failed.append(error)
            finally:
                streamer.end()  # whatever happens, the reader below must not wait for ever

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        reply = ""
        for piece in streamer:
            reply += piece
            yield piece
        thread.join()
        if failed:
            raise ModelError(f"no reply could be made: {' '.join(str(failed[0]).split())[:200]}")
        self.messages.append({"role": "assistant", "content": reply})

    def _ids(self, prompt: str) -> torch.Tensor:
        if self.raw:
            ids = self.tokenizer(prompt)["input_ids"]
        else:
            self.messages.append({"role": "user", "content": prompt})
            assert self.template is not None
            try:
                text = self.template.render(self.messages, generate=True)
            except DataError as error:
                raise ModelError(str(error)) from None
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids], device=self.model.device)


READS = {"adapter": ("tokenizer", "adapter", "base"), "merged": ("tokenizer", "merged"), "base": ("tokenizer", "base")}
"""Artifacts that a model is made of."""


def open_chat(
    root: Path,
    artifacts: Path,
    stats: StatCache,
    which: str,
    machine: Machine,
    sampling: Sampling,
    *,
    quantise: Model,
    datasets: Mapping[str, Dataset],
    system: str | None,
    raw: bool,
    tell: Callable[[str], None] = lambda _: None,
) -> Chat:
    """artifacts: `manifest.opened` with READS[which]; datasets: what it was trained on; tell: gets sentences for the user.

    which: `adapter` (base and adapter), `merged` or `base`.
    """
    tokenizer = AutoTokenizer.from_pretrained(artifacts / "tokenizer", trust_remote_code=False)
    own = read_tokenizer(artifacts / "tokenizer")
    prompting = prompting_of(datasets, own, root)
    for note in () if raw else prompting.notes:
        tell(f"{note}; --raw sends a prompt as it is")
    settings: dict[str, Any] = {"vocabulary": embedding_rows(len(tokenizer), quantise), "packed": False}
    if which == "merged":
        loaded = load_to_run(artifacts / "merged", machine, **settings)
    else:
        pinned = open_pinned(artifacts / "base", root, stats, artifacts / "pinned")
        base = pinned.folder
        loaded = (
            load_to_run(base, machine, quantise=quantise, **settings)
            if which == "base"
            else load_trained(artifacts / "adapter", base, machine, quantise=quantise, **settings)
        )
        pinned.check()
    for note in loaded.notes:
        tell(note)
    model = loaded.model
    stats.save()
    stops = own.stop_ids(unwrap(model).generation_config.eos_token_id, prompting.turn_ends(own))
    return Chat(model.eval(), tokenizer, sampling, stops, prompting.template, system, raw)
