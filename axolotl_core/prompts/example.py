"""What a format makes of a row: text in segments, each trained or not.

Example((Segment("Below is …### Response:\\n"), Segment("2", train=True, end=True)))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from axolotl_core.errors import DataError

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that is encoded by itself. `end`: the tokenizer's EOS follows, unless the text ends in it."""

    text: str
    train: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A row as text. The tokenizer's BOS, if it adds one, goes in front of the first segment."""

    segments: tuple[Segment, ...]

    @property
    def marked(self) -> str:
        """The text for people, trained parts in ⟦ ⟧ and the end of sequence as ◼.

        >>> print(Example((Segment("USER: hi"), Segment(" Hello!", train=True, end=True))).marked)
        USER: hi⟦ Hello!◼⟧
        """
        parts = [(s.text + ("◼" if s.end else ""), s.train) for s in self.segments]
        return "".join(f"⟦{text}⟧" if train else text for text, train in parts)


@dataclass(frozen=True, slots=True)
class Format:
    """A format bound to its data set's settings. `columns`: keys every row must have."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row], Example]
    excess: Literal["drop", "split"] = "drop"
    """What pack does with a sample longer than sequence_len when excess_length is auto."""


def text(row: Row, field: str) -> str:
    """A field that must be there; numbers become text. Raises DataError for null, a list or an object."""
    value = row.get(field)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise DataError(f"field '{field}' is {_kind(value)}, wanted text")


def text_or_empty(row: Row, field: str) -> str:
    """A field that may be missing or null."""
    return "" if row.get(field) is None else text(row, field)


def _kind(value: Any) -> str:
    return {type(None): "null", list: "a list", dict: "an object"}.get(type(value), type(value).__name__)
