"""Special tokens as plain text. A user's field may hold `</s>`, which is not to end anything.

Such text is marked when a row is read (`Guard`), and a text with marks is encoded by a twin of the tokenizer, in which
the special tokens have other names: what the template wrote is put under these names, what the user wrote stays text.

    guarded   'say </s>'            →  'say <▮/s>'
    template  '{}</s>'              →  'say <▮/s></s>'
    aliased                         →  'say </s>▯2▯'         the twin knows ▯2▯, and no </s>
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers

from axolotl_core.errors import DataError

GUARD, ALIAS = "\ufdd0", "\ufdd1"
"""Unicode noncharacters: no text may contain them."""


class Guard:
    """Marks special tokens in a user's row as text."""

    def __init__(self, control: Iterable[str]) -> None:
        self.pattern = any_of(control)
        self.first = "".join(sorted({token[0] for token in control}))

    def may_be_in(self, json_text: str) -> bool:
        """Quick: whether a row's JSON text could hold a special token."""
        return any(character in json_text for character in self.first) and self.pattern.search(json_text) is not None

    def apply(self, value: Any) -> Any:
        """A row's values with every special token marked; keys are not touched."""
        if isinstance(value, str):
            while match := self.pattern.search(value):  # marking one can leave another that began inside it
                value = value[: match.start() + 1] + GUARD + value[match.start() + 1 :]
            return value
        if isinstance(value, dict):
            return {key: self.apply(inner) for key, inner in value.items()}
        return [self.apply(inner) for inner in value] if isinstance(value, list) else value

    def count(self, value: Any) -> int:
        """How many special tokens a row's values hold as text."""
        if isinstance(value, str):
            return len(self.pattern.findall(value))
        if isinstance(value, dict):
            return sum(map(self.count, value.values()))
        return sum(map(self.count, value)) if isinstance(value, list) else 0


class ShadowTokenizer:
    """A copy of a tokenizer whose special tokens have names that no text contains."""

    def __init__(self, backend: tokenizers.Tokenizer, control: dict[str, int]) -> None:
        facts = json.loads(backend.to_str())
        self.names = {text: f"{ALIAS}{id}{ALIAS}" for text, id in control.items()}
        renamed = [entry for entry in facts["added_tokens"] if entry["content"] in control]
        facts["added_tokens"] = [entry for entry in facts["added_tokens"] if entry["content"] not in control]
        facts["post_processor"] = None
        self.backend = tokenizers.Tokenizer.from_str(json.dumps(facts))
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        self.backend.add_special_tokens(
            [tokenizers.AddedToken(self.names[e["content"]], special=True, **{flag: e[flag] for flag in flags}) for e in renamed]
        )
        every = backend.get_added_tokens_decoder()
        self.ids = {self.backend.token_to_id(self.names.get(token.content, token.content)): id for id, token in every.items()}
        """The twin's ids of all added tokens, which it numbers anew, and the tokenizer's."""
        size = backend.get_vocab_size(with_added_tokens=False)
        self.forbidden = {id: text for text, id in control.items() if id < size}
        self.pattern = any_of(control)

    def aliased(self, text: str) -> str:
        """The text to encode."""
        return self.pattern.sub(lambda match: self.names[match[0]], text).replace(GUARD, "")

    def real(self, ids: Sequence[int]) -> list[int]:
        """The twin's ids as the tokenizer's. Raises DataError where plain text became a special token all the same."""
        for id in self.forbidden.keys() & set(ids):
            if id not in self.ids:
                raise DataError(
                    f"a field holds '{self.forbidden[id]}', which this tokenizer cannot write as plain text; "
                    "set allow_special_tokens or remove it"
                )
        return [self.ids.get(id, id) for id in ids]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest first; nothing, where there are none."""
    ordered = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
