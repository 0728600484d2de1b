"""A YAML file as plain values that remember their lines, their comments and how they were spelled.

Read with ruamel as YAML 1.2, as DVC does: `2e-5` is a number and `yes` is a word, where PyYAML (YAML 1.1) has it
the other way round.
"""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent
from ruamel.yaml.scalarstring import ScalarString

from axolotl_core.errors import ParamsError

Where = tuple[str | int, ...]
MOST_DEPTH, MOST_NODES = 50, 50_000
"""How deep a params file is nested at most, and how many values it has with its aliases written out."""
LARGEST = 2**64
UNREADABLE = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, AssertionError, NotImplementedError, RecursionError)
"""What ruamel raises over odd texts besides its own errors."""
DIGITS = re.compile(r"[0-9_]{4300}")
"""More than Python reads as a number."""


@dataclass(frozen=True)
class Comment:
    """Whole lines in front of an option, and what stands behind its value, both without `#`."""

    above: tuple[str, ...] = ()
    beside: str | None = None


@dataclass
class Document:
    """`values` as nested dicts and lists; `lines` maps a path such as ("adapter", "lora_r") to its line, from 1.

    comments and spelled by the same paths: spelled has ruamel's scalars, which are written as they were read (`2e-5`).
    """

    source: str
    values: dict[str, Any]
    lines: dict[Where, int] = field(default_factory=dict)
    comments: dict[Where, Comment] = field(default_factory=dict)
    spelled: dict[Where, Any] = field(default_factory=dict)
    overridden: set[Where] = field(default_factory=set)
    """Paths whose values came from the command line."""

    def place(self, where: Where) -> str:
        """`params.yaml:12`: the line of the path, or of the nearest thing around it that has one."""
        if where in self.overridden:
            return f"--set {'.'.join(map(str, where))}"
        while where and where not in self.lines:
            where = where[:-1]
        line = self.lines.get(where)
        return f"{self.source}:{line}" if line else self.source

    def set(self, where: Where, value: Any) -> None:
        """Put a value that came from the command line; its place is then `--set`."""
        node: dict[Any, Any] = self.values
        for key in where[:-1]:
            if node.get(key) is None:
                node[key] = {}  # an empty section
            node = node[key]
            if not isinstance(node, dict):
                raise ParamsError(f"--set {'.'.join(map(str, where))}: {key} is not a section of {self.source}")
        node[where[-1]] = value
        self.lines.pop(where, None)
        self.spelled.pop(where, None)

    def move(self, old: Where, new: Where, onto: "Document") -> None:
        """Take lines, comments and spellings of the path `old`, and of all below it, to the path `new` of another document."""
        kept: list[tuple[dict[Where, Any], dict[Where, Any]]] = [
            (self.lines, onto.lines),
            (self.comments, onto.comments),
            (self.spelled, onto.spelled),
        ]
        for mine, theirs in kept:
            for where in [where for where in mine if where[: len(old)] == old]:
                theirs[(*new, *where[len(old) :])] = mine[where]


def read(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises ParamsError: no such file, not YAML, a key twice, not a mapping.
    """
    return parsed(text_of(path), str(path))


def text_of(path: Path) -> str:
    """Raises ParamsError: no such file, no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `axolotl init DIR` makes a project with one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {error}") from None


def parsed(text: str, source: str) -> Document:
    """The document of a YAML text. Raises ParamsError: not YAML, a key twice, not a mapping."""
    try:
        _bounded(text, source)
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsError(f"{source}:{line}: not valid YAML: {' '.join(str(error.problem).split())}") from None
    except YAMLError as error:
        raise ParamsError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    except UNREADABLE as error:  # a date that is none, a number of thousands of digits, a mapping merged into itself
        line = next((i for i, shown in enumerate(text.splitlines(), 1) if DIGITS.search(shown)), None)
        place, message = (f"{source}:{line}", "a number is too long") if line else (source, f"it cannot be read: {error}")
        raise ParamsError(f"{place}: not valid YAML: {message}") from None
    if not isinstance(tree, CommentedMap):
        raise ParamsError(f"{source}: got {type(tree).__name__}, wanted a mapping of sections such as `model:`")
    document = Document(source, {})
    document.values = _Plain(document).of(tree, ())
    for key in document.values:
        if not isinstance(key, str):
            raise ParamsError(f"{document.place((key,))}: got the key {key!r}, wanted the name of a section or of an option")
    document.comments = _comments(text.splitlines(), tree, document)
    return document


def scalar(text: str) -> Any:
    """A command-line value read as YAML 1.2: `1e-4` → 0.0001, `true` → True, `null` → None, `[a, b]` → list."""
    try:
        _bounded(text, "--set")
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, *UNREADABLE):
        return text


def _bounded(text: str, source: str) -> None:
    """Raises ParamsError for a text that is nested deeper than any params file, or whose aliases stand for more values than it has.

    Before anything is made of it: ruamel copies what `<<` merges, again and again.
    """
    sizes: dict[str | None, int] = {}
    open_: list[tuple[str | None, int]] = []
    count = 0
    for event in YAML(typ="rt").parse(text):
        place = f"{source}:{event.start_mark.line + 1}"
        anchor = getattr(event, "anchor", None)
        if isinstance(event, AliasEvent):
            count += sizes.get(anchor, MOST_NODES)  # one that stands for itself is not known yet
        elif isinstance(event, CollectionEndEvent):
            name, before = open_.pop()
            sizes |= {name: count - before + 1} if name else {}
        elif isinstance(event, CollectionStartEvent | ScalarEvent):
            count += 1
            if isinstance(event, CollectionStartEvent):
                open_.append((anchor, count))
            elif anchor:
                sizes[anchor] = 1
        if len(open_) > MOST_DEPTH:
            raise ParamsError(f"{place}: is nested over {MOST_DEPTH} levels deep; no option is")
        if count > MOST_NODES:
            raise ParamsError(
                f"{place}: the aliases (*) up to here stand for over {MOST_NODES:,} values, or for themselves; write them out"
            )


class _Plain:
    """ruamel's nodes as plain values; what the document remembers of them is written down on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def of(self, node: Any, where: Where) -> Any:
        """Raises ParamsError: a tag, or a kind of value that no option has."""
        tag = getattr(getattr(node, "tag", None), "value", None)
        if (tag is not None and not str(tag).startswith("tag:yaml.org,2002:")) or ":python/" in str(tag):
            raise ParamsError(f"{self.document.place(where)}: has the tag {tag}, which is not understood; write a plain value")
        lines = self.document.lines
        if isinstance(node, CommentedMap):
            for key in node:
                if key in (node.lc.data or ()):  # a key that `<<` merged in has no line of its own
                    lines[(*where, key)] = node.lc.key(key)[0] + 1
            return {key: self.of(value, (*where, key)) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            for i in range(len(node)):
                if i in (node.lc.data or ()):
                    lines[(*where, i)] = node.lc.item(i)[0] + 1
            return [self.of(value, (*where, i)) for i, value in enumerate(node)]
        return self._scalar(node, where)

    def _scalar(self, node: Any, where: Where) -> Any:
        if node is None or isinstance(node, bool | datetime.date):
            return node
        for kind in (int, float, str):  # ruamel's ScalarFloat and friends carry their formatting along
            if isinstance(node, kind):
                if isinstance(node, int) and abs(node) > LARGEST:
                    raise ParamsError(f"{self.document.place(where)}: the number is too large, wanted one of at most 64 bits")
                if type(node) is not kind and not getattr(getattr(node, "anchor", None), "value", None):
                    self.document.spelled[where] = node
                return kind(node)
        message = f"got a value of the kind {type(node).__name__.removeprefix('Commented').lower()}"
        raise ParamsError(f"{self.document.place(where)}: {message}, which no option has; write a plain value")


def _comments(text: Sequence[str], tree: CommentedMap, document: Document) -> dict[Where, Comment]:
    """By the path of each key: the lines of nothing but a comment right above it, and what is behind its value.

    A blank line parts a comment from what is below it: only the block that touches an option is taken for its own, all blocks
    in front of the first option too.
    """
    inside = {line for where, node in document.spelled.items() if isinstance(node, ScalarString) for line in _block(text, where, document)}
    comment_lines = {i for i, line in enumerate(text, 1) if line.lstrip().startswith("#") and i not in inside}
    beside = _behind(tree, ())
    first = min(document.lines.values(), default=1)
    found: dict[Where, Comment] = {}
    taken: set[int] = set()
    for where, line in document.lines.items():
        above: list[str] = []
        at = line - 1
        while line not in taken and at >= 1 and (at in comment_lines or (line == first and not text[at - 1].strip())):
            above.insert(0, text[at - 1].strip().removeprefix("#").removeprefix(" "))
            at -= 1
        taken.add(line)  # `- path: x` has a comment in front of the entry, not in front of its key too
        while above and not above[0]:
            above.pop(0)
        if above or where in beside:
            found[where] = Comment(tuple(above), beside.get(where))
    return found


def _block(text: Sequence[str], where: Where, document: Document) -> range:
    """Lines below the key of a block scalar, up to the first that is not indented deeper."""
    start = document.lines.get(where, 0)
    if not start or not text[start - 1].rstrip().endswith(("|", ">", "|-", ">-", "|+", ">+")):
        return range(0)
    depth = len(text[start - 1]) - len(text[start - 1].lstrip())
    end = start
    while end < len(text) and (not text[end].strip() or len(text[end]) - len(text[end].lstrip()) > depth):
        end += 1
    return range(start + 1, end + 1)


def _behind(node: Any, where: Where) -> dict[Where, str]:
    """Comments on the line of a value, by its path."""
    found: dict[Where, str] = {}
    if isinstance(node, CommentedMap | CommentedSeq):
        for key, tokens in node.ca.items.items():
            line = node.lc.data[key][0] if key in (node.lc.data or ()) else None
            for token in tokens or ():
                if hasattr(token, "value") and token.start_mark.line == line and token.value.startswith("#"):
                    found[(*where, key)] = token.value.split("\n")[0].removeprefix("#").strip()
        for key, value in node.items() if isinstance(node, CommentedMap) else enumerate(node):
            found |= _behind(value, (*where, key))
    return found
