"""How a trained model is prompted: the chat template of its training data, and the tokens that end its replies.

The tokenizer's own template is taken unless the data was written by another one; where the data was not written by the template
that is taken, that is said, for a model answers well only what looks like its training data.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_core.errors import DataError, ModelError, ParamsError
from axolotl_core.formats.chat_template import date_of, own_template
from axolotl_core.params.datasets import Dataset, UserPrompt
from axolotl_core.prompts.example import Example
from axolotl_core.prompts.resolve import format_of
from axolotl_core.prompts.template import DATE, ChatTemplate, common_beginning
from axolotl_core.prompts.templates import template_of
from axolotl_core.tokens.tokenizer import Tokenizer

QUESTION, ANSWER = "Question?", "Answer."
FIELDS = {
    **dict.fromkeys(("instruction", "question", "input_text", "article", "text"), QUESTION),
    **dict.fromkeys(("output", "answer", "response", "completion", "summary"), ANSWER),
    "input": "",
}
KEYS = (("from", "value"), ("role", "value"), ("role", "text"), ("role", "content"))
ROLES = (("human", "gpt"), ("user", "assistant"), ("prompter", "assistant"))
"""Keys and roles of the messages that formats of conversations read."""


@dataclass(frozen=True)
class Prompting:
    """source: Jinja; own: whether it is the data's own and not the tokenizer's; notes: sentences for the user.

    template: the source with the variables and the date that training gave it, None where there is none or it is not Jinja.
    """

    source: str | None
    own: bool = False
    template: ChatTemplate | None = None
    notes: tuple[str, ...] = ()
    not_exported: tuple[str, ...] = ()
    """Variables of the template that a tokenizer's files cannot carry."""

    def turn_ends(self, tokenizer: Tokenizer) -> list[int]:
        """The id of the token that ends a reply, if it is one token."""
        text = self.template.turn_end if self.template else None
        id = tokenizer.backend.token_to_id(text) if text else None
        return [] if id is None else [id]


def prompting_of(datasets: Mapping[str, Dataset], tokenizer: Tokenizer, root: Path) -> Prompting:
    """How a model that was trained on these datasets is asked; root: the folder of params.yaml, with Jinja files."""
    given = {name: template_of(data, root) for name, data in datasets.items() if data.type == "chat_template"}
    sources = {name: template.source or _tokenizers(tokenizer) or template.fallback for name, template in given.items()}
    chosen = next((name for name, template in given.items() if template.source is None), next(iter(given), None))
    source = sources[chosen] if chosen else _tokenizers(tokenizer)
    if source is None:
        return Prompting(None)
    own, vocabulary = bool(chosen and source != _tokenizers(tokenizer)), tokenizer.vocabulary
    settings, date = (datasets[chosen].chat_template_kwargs, date_of(datasets[chosen])) if chosen else ({}, DATE)
    try:
        template = ChatTemplate(source, vocabulary.special, settings, vocabulary.added, date)
    except ParamsError as error:  # of the tokenizer, which training had no use for
        return Prompting(source, own, notes=(str(error),))
    where = _where(given[chosen].shown, root) if chosen and own else "the tokenizer's own"
    others = {
        name: sources[name] != source if name in sources else not _writes_as(datasets[name], template, tokenizer, root) for name in datasets
    }
    notes = [
        f"the chat template is {where}, but {name} was trained as {_type(datasets[name])}, which looks different"
        for name, differs in others.items()
        if differs
    ]
    return Prompting(source, own, template, tuple(notes), tuple(sorted(settings)))


def write_special_tokens(folder: Path, tokenizer: Tokenizer, prompting: Prompting) -> None:
    """Make config.json and generation_config.json of an exported model agree with its tokenizer.

    The base's files know nothing of special_tokens that params.yaml sets. Whatever ends a reply is in generation_config.json; what
    config.json calls eos stays a list where the base has one.
    """
    config = _read(folder / "config.json")
    generation = _read(folder / "generation_config.json")
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    stops = tokenizer.stop_ids(ends, prompting.turn_ends(tokenizer))
    ids = {
        f"{name}_id": tokenizer.backend.token_to_id(tokenizer.special[name])
        for name in ("bos_token", "pad_token")
        if name in tokenizer.special
    }
    several = isinstance(config.get("eos_token_id"), list)
    config |= ids | {"eos_token_id": stops if several else stops[0]}
    generation |= ids | {"eos_token_id": stops if len(stops) > 1 else stops[0]}
    for name, values in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8-sig"))) if file.is_file() else {}


def _tokenizers(tokenizer: Tokenizer) -> str | None:
    try:
        return own_template(tokenizer.folder)
    except ModelError:
        return None


def _writes_as(data: Dataset, template: ChatTemplate, tokenizer: Tokenizer, root: Path) -> bool:
    """Whether a format puts in front of an answer what the template asks for one with; the system text may be another."""
    try:
        format = format_of(data, root)
        format = format.fit(tokenizer.vocabulary) if format.fit else format
        requested = template.render([{"role": "user", "content": QUESTION}], generate=True).rstrip(" ")
    except (DataError, ParamsError, ModelError):
        return False
    for row in _rows(data):
        with contextlib.suppress(DataError):
            example = format.read(row)
            if isinstance(example, Example):
                written = "".join(segment.text for segment in example.segments)
                prompt = written[: written.rfind(ANSWER)].rstrip(" ")
                same = common_beginning(prompt[::-1], requested[::-1])
                return requested.rfind(QUESTION) >= 0 and (same == len(requested) or same > len(requested) - requested.rfind(QUESTION))
    return False


def _rows(data: Dataset) -> Iterator[dict[str, Any]]:
    """Rows of a question and its answer, one of which most formats read, to see how they write it."""
    fields: dict[str, Any] = dict(FIELDS)
    if isinstance(data.type, UserPrompt):
        fields |= {data.type.field_instruction: QUESTION, data.type.field_input: "", data.type.field_output: ANSWER}
    for (role, content), (human, model) in itertools.product(KEYS, ROLES):
        user, assistant = data.field_human or human, data.field_model or model
        yield {**fields, "conversations": [{role: user, content: QUESTION}, {role: assistant, content: ANSWER}]}


def _where(shown: str, root: Path) -> str:
    return os.path.relpath(shown, root) if Path(shown).is_absolute() else shown


def _type(data: Dataset) -> str:
    if isinstance(data.type, str):
        return f"'{data.type}'" + (f" with {data.chat_template}" if data.chat_template else "")
    return "a prompt of params.yaml"
