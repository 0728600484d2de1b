"""A YAML file as plain values that remember their lines, their comments and how they were spelled.

Read with ruamel as YAML 1.2, as DVC does: `2e-5` is a number and `yes` is a word, where PyYAML (YAML 1.1) has it
the other way round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import ScalarString

from axolotl_core.errors import ParamsError

Where = tuple[str | int, ...]


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

    def place(self, where: Where) -> str:
        """`params.yaml:12`: the line of the path, or of the nearest thing around it that has one."""
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
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsError(f"{source}:{line}: not valid YAML: {' '.join(str(error.problem).split())}") from None
    except YAMLError as error:
        raise ParamsError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, CommentedMap):
        raise ParamsError(f"{source}: got {type(tree).__name__}, wanted a mapping of sections such as `model:`")
    document = Document(source, {})
    document.values = _plain(tree, (), document)
    for key in document.values:
        if not isinstance(key, str):
            raise ParamsError(f"{document.place((key,))}: got the key {key!r}, wanted the name of a section or of an option")
    document.comments = _comments(text.splitlines(), tree, document)
    return document


def scalar(text: str) -> Any:
    """A command-line value read as YAML 1.2: `1e-4` → 0.0001, `true` → True, `null` → None, `[a, b]` → list."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return text


def _plain(node: Any, where: Where, document: Document) -> Any:
    if isinstance(node, CommentedMap):
        for key in node:
            if key in (node.lc.data or ()):  # a key that `<<` merged in has no line of its own
                document.lines[(*where, key)] = node.lc.key(key)[0] + 1
        return {key: _plain(value, (*where, key), document) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            if i in (node.lc.data or ()):
                document.lines[(*where, i)] = node.lc.item(i)[0] + 1
        return [_plain(value, (*where, i), document) for i, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):  # ruamel's ScalarFloat and friends carry their formatting along
        if isinstance(node, kind):
            if type(node) is not kind and not getattr(getattr(node, "anchor", None), "value", None):
                document.spelled[where] = node
            return kind(node)
    return node


def _comments(text: Sequence[str], tree: CommentedMap, document: Document) -> dict[Where, Comment]:
    """By the path of each key: the lines of nothing but a comment right above it, and what is behind its value.

    A blank line parts a comment from what is below it: only the block that touches an option is taken for its own, all blocks
    in front of the first option too.
    """
    inside = {line for where, node in document.spelled.items() if isinstance(node, ScalarString) for line in _block(text, where, document)}
    bare = {i for i, line in enumerate(text, 1) if line.lstrip().startswith("#") and i not in inside}
    beside = _behind(tree, ())
    first = min(document.lines.values(), default=1)
    found: dict[Where, Comment] = {}
    taken: set[int] = set()
    for where, line in document.lines.items():
        above: list[str] = []
        at = line - 1
        while line not in taken and at >= 1 and (at in bare or (line == first and not text[at - 1].strip())):
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
