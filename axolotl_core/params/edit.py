"""Changing one option in the text of a YAML file: its comments, order, quotes and spelling of numbers stay as they are."""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from axolotl_core.errors import ParamsError
from axolotl_core.params.document import Where, parsed, scalar

INDENT = 2


def edited(text: str, where: Where, value: str) -> str:
    """The text with `value`, as it was typed, at the path of an option; sections that are not there are added.

    >>> print(edited("training:\\n  learning_rate: 2e-5  # tried\\n", ("training", "learning_rate"), "1e-4"), end="")
    training:
      learning_rate: 1e-4  # tried
    >>> print(edited("model: {base_model: x}\\n", ("training", "seed"), "3"), end="")
    model: {base_model: x}
    training:
      seed: 3
    """
    wanted = parsed(text, "params.yaml").values if text.strip() else {}
    node: dict[Any, Any] = wanted
    for key in where[:-1]:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[where[-1]] = scalar(value)
    made = _edited(text, where, _typed(value))
    if _values(made) != wanted:  # a shape that is not foreseen here
        made = _rewritten(text, where, scalar(value))
    if _values(made) == wanted:
        return made
    raise ParamsError(f"{'.'.join(map(str, where))} cannot be changed in this file (an anchor or an alias?); change it with an editor")


def _values(text: str) -> Any:
    try:
        return parsed(text, "params.yaml").values
    except ParamsError:
        return None


def with_sections(text: str, names: list[str]) -> str:
    """The text with an empty section for each of the names that it lacks."""
    have = parsed(text, "params.yaml").values
    missing = [name for name in names if name not in have]
    if not missing:
        return text
    made = f"{text.rstrip()}\n\n" + "".join(f"{name}: {{}}\n" for name in missing)
    if _values(made) == {**have, **{name: {} for name in missing}}:
        return made
    yaml, out = YAML(), StringIO()  # in braces, or with an end of the document
    yaml.width = 10**6
    tree = yaml.load(text)
    for name in missing:
        tree[name] = {}
    yaml.dump(tree, out)
    return out.getvalue()


def _typed(value: str) -> str:
    """As one writes it in YAML: text that reads as itself, or in quotes."""
    found = scalar(value)
    if not isinstance(found, str) and "\n" not in value and "#" not in value:
        return value
    out = StringIO()
    yaml = YAML()
    yaml.default_flow_style = True
    yaml.width = 10**6
    yaml.dump(found, out)
    return out.getvalue().removesuffix("...\n").strip()


def _edited(text: str, where: Where, value: str) -> str:
    root: Any = YAML(pure=True).compose(text)
    if not isinstance(root, MappingNode):
        return _nested(where, value, 0)
    node: Node = root
    for depth, key in enumerate(where):
        pair = next(((k, v) for k, v in node.value if k.value == str(key)), None) if isinstance(node, MappingNode) else None
        if pair is None:
            return _added(text, node, where[depth:], value) if isinstance(node, MappingNode) else text
        name, node = pair
        if depth < len(where) - 1 and isinstance(node, ScalarNode):  # an empty section
            inner = _nested(where[depth + 1 :], value, name.start_mark.column + INDENT)
            end = _line_end(text, name.end_mark.index)
            return f"{text[:end]}\n{inner.rstrip()}{text[end:]}"
    start, end = node.start_mark.index, _end(node)
    if start == end:  # an empty value
        colon = text.index(":", name.end_mark.index) + 1
        return f"{text[:colon]} {value}{text[colon:]}"
    if isinstance(node, CollectionNode) and not node.flow_style:
        colon = text.index(":", name.end_mark.index) + 1
        return f"{text[:colon]} {value}{text[_line_end(text, end) :]}"
    return text[:start] + value + text[end:]


def _added(text: str, node: Node, where: Where, value: str) -> str:
    """A key that its mapping lacks, behind the last one."""
    assert isinstance(node, MappingNode)
    if node.flow_style:
        inner = value
        for key in reversed(where[1:]):
            inner = f"{{{key}: {inner}}}"
        if not node.value:
            if len(where) > 1 or node.start_mark.column == 0:
                return f"{text[: node.start_mark.index]}{{{where[0]}: {inner}}}{text[node.end_mark.index :]}"
            indent = len(_line(text, node.start_mark.index)) - len(_line(text, node.start_mark.index).lstrip()) + INDENT
            return f"{text[: node.start_mark.index].rstrip()}\n{_nested(where, value, indent).rstrip()}{text[node.end_mark.index :]}"
        end = _end(node.value[-1][1])
        return f"{text[:end]}, {where[0]}: {inner}{text[end:]}"
    column = node.value[0][0].start_mark.column
    end = _line_end(text, _end(node.value[-1][1]))
    return f"{text[:end]}\n{_nested(where, value, column).rstrip()}{text[end:] or chr(10)}"


def _nested(where: Where, value: str, column: int) -> str:
    lines = [f"{' ' * (column + INDENT * depth)}{key}:" for depth, key in enumerate(where)]
    return "\n".join(lines) + f" {value}\n"


def _end(node: Node) -> int:
    """Where the text of a node ends, without what follows a block."""
    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _line(text: str, index: int) -> str:
    start = text.rfind("\n", 0, index) + 1
    return text[start : _line_end(text, index)]


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def _rewritten(text: str, where: Where, value: Any) -> str:
    """Through ruamel, which keeps comments and order, and lays the rest out anew."""
    yaml = YAML()
    yaml.width = 10**6
    yaml.preserve_quotes = True
    tree = yaml.load(text)
    node = tree
    for key in where[:-1]:
        if not isinstance(node.get(key), dict):
            node[key] = {}
        node = node[key]
    node[where[-1]] = value
    out = StringIO()
    yaml.dump(tree, out)
    return out.getvalue()
