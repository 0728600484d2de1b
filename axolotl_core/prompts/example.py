"""What a format makes of a row: text in segments, each trained or not.

Example((Segment("Below is …### Response:\\n"), Segment("2", train=True, end=1)))
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from axolotl_core.errors import DataError

Row = dict[str, Any]
ROLES = ("prompt", "system", "user", "assistant", "tool", "text")
"""Who says a segment: `prompt` is all that stands before an instruction's answer, `text` a text without roles."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text by one role. `end`: so many of the tokenizer's EOS follow, those that end the text counted.

    A segment is encoded by itself; with `glue` it is encoded in one with the segment before it, as a template's text is.
    """

    text: str
    train: bool = False
    end: int = 0
    glue: bool = False
    role: str = "prompt"
    begin: bool = False
    """The tokenizer's BOS, if it adds one, goes in front: a text that has several of them."""


def answer(text: str, *, end: int = 1, glue: bool = False) -> Segment:
    """What the assistant says, trained."""
    return Segment(text, train=True, end=end, glue=glue, role="assistant")


@dataclass(frozen=True, slots=True)
class Example:
    """A row as text. The tokenizer's BOS, if it adds one, goes in front unless the text brings its own (`bos` False).

    ends: False where the dataset asked for turns whose end is not trained, so that nobody is warned of it.
    """

    segments: tuple[Segment, ...]
    bos: bool = True
    ends: bool = True

    @property
    def marked(self) -> str:
        """The text for people, trained parts in ⟦ ⟧ and the end of sequence as ◼.

        >>> print(Example((Segment("USER: hi"), answer(" Hello!"))).marked)
        USER: hi⟦ Hello!◼⟧
        """
        parts = [(s.text + "◼" * s.end, s.train) for s in self.segments if s.text or s.end]
        return "".join(f"⟦{text}⟧" if train else text for text, train in parts)


@dataclass(frozen=True, slots=True)
class Ids:
    """A row that came as token ids; labels are -100 where it is not trained."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a format may ask of the tokenizer. `folder` holds its files, `has` knows whether a text is one token."""

    folder: Path
    has: Callable[[str], bool]
    size: int
    added: re.Pattern[str]
    """Matches an added token: what can end a turn."""
    special: dict[str, str]
    """`eos_token` → "</s>", and so on."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format bound to its dataset's settings. `columns`: keys every row must have."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row], Example | Ids]
    excess: Literal["drop", "split"] = "drop"
    """What pack does with a sample longer than sequence_len when excess_length is auto."""
    markup: bool = False
    """Whether the data carries control tokens as text: `</s>` in a field is then the token, else plain text."""
    fit: Callable[[Vocabulary], "Format"] | None = None
    """Gives the format for one tokenizer, where it depends on the tokenizer."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about what the format decided by itself."""


def text(row: Row, field: str) -> str:
    """A field that must be there; numbers become text. Raises DataError for null, a list or an object."""
    value = row.get(field)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    hint = f"; `join: {{{field}: ' '}}` makes one of it" if isinstance(value, list) else ""
    raise DataError(f"field '{field}' is {kind(value)}, wanted text{hint}")


def text_or_empty(row: Row, field: str) -> str:
    """A field that may be missing or null."""
    return "" if row.get(field) is None else text(row, field)


def listed(value: Any) -> Any:
    """A value that should be a list: a csv file holds it as JSON text, and an empty one for nothing."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError:
        return value


def kind_of_list(value: Any) -> str:
    """What stands where a list of something was wanted: no list, or a list of other things."""
    return "a list of other things" if isinstance(value, list) else kind(value)


def kind(value: Any) -> str:
    """What a JSON value is, in the words of an error."""
    return {type(None): "null", str: "text", list: "a list", dict: "an object"}.get(type(value), type(value).__name__)
