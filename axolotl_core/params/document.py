"""A YAML file as plain values that remember their lines.

Read with ruamel as YAML 1.2, as DVC does: `2e-5` is a number and `yes` is a word, where PyYAML (YAML 1.1) has it
the other way round.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from axolotl_core.errors import ParamsError

Where = tuple[str | int, ...]


@dataclass
class Document:
    """`values` as nested dicts and lists; `lines` maps a path such as ("adapter", "lora_r") to its line, from 1."""

    source: str
    values: dict[str, Any]
    lines: dict[Where, int] = field(default_factory=dict)

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


def read(path: Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises ParamsError: no such file, not YAML, a key twice, not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `axolotl init DIR` makes a project with one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {error}") from None
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsError(f"{path}:{line}: not valid YAML: {' '.join(str(error.problem).split())}") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, CommentedMap):
        raise ParamsError(f"{path}: got {type(tree).__name__}, wanted a mapping of sections such as `model:`")
    document = Document(str(path), {})
    document.values = _plain(tree, (), document.lines)
    return document


def scalar(text: str) -> Any:
    """A command-line value read as YAML 1.2: `1e-4` → 0.0001, `true` → True, `null` → None, `[a, b]` → list."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return text


def _plain(node: Any, where: Where, lines: dict[Where, int]) -> Any:
    if isinstance(node, CommentedMap):
        for key in node:
            if key in node.lc.data:  # a key that `<<` merged in has no line of its own
                lines[(*where, key)] = node.lc.key(key)[0] + 1
        return {key: _plain(value, (*where, key), lines) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            lines[(*where, i)] = node.lc.item(i)[0] + 1
        return [_plain(value, (*where, i), lines) for i, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):  # ruamel's ScalarFloat and friends carry their formatting along
        if isinstance(node, kind):
            return kind(node)
    return node
