"""The Jinja environment of chat templates: that of transformers, with limits on what a template may cost for a row.

A template may come from a repository. It sees the conversation and nothing else (Jinja's sandbox), and here it is counted what it
does: passes of loops and calls of macros, and the length of what it writes or builds. The counts do not depend on the machine, so
a row is taken or refused everywhere alike.
"""

import re
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_PASSES = 1_000_000
"""Calls, filters and operators in one rendering, of which a pass of a loop or a macro is two: about a second. A conversation of 500
messages that is looked at from each of its messages has 250,000 passes."""
FREE_CHARACTERS, MOST_TIMES = 10_000_000, 50
"""A text may be so long in any case, or so many times as long as the row."""
MOST_DIGITS = 1000
TICK, JOIN = "_tick", "_join"


class TooMuch(jinja2.TemplateRuntimeError):
    """A template that goes beyond a limit."""


class _Spent(threading.local):
    passes = 0
    characters = FREE_CHARACTERS


_spent = _Spent()


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """See the file's beginning. `rendering` is to be called before each rendering, by the thread that renders."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.globals |= {TICK: _tick, JOIN: _join}
        self.globals.pop("lipsum")
        for name, function in self.filters.items():
            self.add_filter(name, function)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """A filter whose cost is limited as that of all others."""
        self.filters = {**self.filters, name: _measured(name, function)}

    def rendering(self, size: int) -> None:
        """size: characters of the row."""
        _spent.passes = 0
        _spent.characters = max(FREE_CHARACTERS, MOST_TIMES * size)

    def written(self, pieces: Any) -> str:
        """The text of `Template.generate`."""
        texts, length = [], 0
        for piece in pieces:
            length += len(piece)
            _fits(length)
            texts.append(piece)
        return "".join(texts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Every body of a loop or macro begins with a tick, and `~` is a call that measures."""
        tree = super()._parse(source, name, filename)
        for node in [*tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]:
            line = node.lineno
            tick = nodes.Call(nodes.Name(TICK, "load", lineno=line), [], [], None, None, lineno=line)
            node.body.insert(0, nodes.ExprStmt(tick, lineno=line))
        _measure_joins(tree)
        tree.set_environment(self)
        return tree

    def call(__self, __context: Any, __object: Any, *args: Any, **kwargs: Any) -> Any:
        _tick()
        text = getattr(__object, "__self__", None)
        if isinstance(text, str | list | tuple | dict):
            _will_fit(__object.__name__, text, (*args, *kwargs.values()))
        return _fitting(super().call(__context, __object, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _tick()
        if operator == "*":
            if isinstance(left, int) and isinstance(right, int):
                _few_digits(left.bit_length() + right.bit_length())
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | list | tuple) and isinstance(times, int):
                    _fits(_length(many) * max(0, times))
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _few_digits(left.bit_length() * max(0, right))
        if operator == "%" and isinstance(left, str):
            _will_fit("format", left, right if isinstance(right, tuple) else (right,))
        return _fitting(super().call_binop(context, operator, left, right))


def _measure_joins(tree: nodes.Node) -> None:
    """Put calls in the place of `a ~ b`."""
    for node in tree.find_all(nodes.Node):
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(node, field, _join_call(value))
            elif isinstance(value, list):
                setattr(node, field, [_join_call(item) if isinstance(item, nodes.Concat) else item for item in value])


def _join_call(node: nodes.Concat) -> nodes.Call:
    return nodes.Call(nodes.Name(JOIN, "load", lineno=node.lineno), node.nodes, [], None, None, lineno=node.lineno)


def _tick() -> None:
    _spent.passes += 1
    if _spent.passes > MOST_PASSES:
        raise TooMuch(f"it goes through loops and macros over {MOST_PASSES:,} times for one row")


def _join(*parts: Any) -> str:
    texts = [str(part) for part in parts]
    _fits(sum(map(len, texts)))
    return "".join(texts)


def _fits(length: int) -> None:
    if length > _spent.characters:
        raise TooMuch(f"it makes a text of over {_spent.characters:,} characters for one row")


def _few_digits(bits: int) -> None:
    if bits > 4 * MOST_DIGITS:
        raise TooMuch(f"it makes a number of over {MOST_DIGITS:,} digits")


def _length(value: Any) -> int:
    """Characters that a value would be written as, roughly."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return len(value) + sum(_length(item) for item in value if isinstance(item, str | list | tuple))
    return 1


def _will_fit(name: str, text: Any, args: Sequence[Any]) -> None:
    """Before a method, or the filter of its name, is called: whether the result will not be too long.

    Whatever it is, a number that it is given may be a length, a width or a count of what it makes.
    """
    numbers = [number for arg in args for number in (arg if isinstance(arg, tuple | list) else (arg,)) if isinstance(number, int)]
    largest = max((abs(number) for number in numbers), default=0)
    size = _length(text)
    match name:
        case "replace" if isinstance(text, str) and len(args) > 1 and all(isinstance(part, str) for part in args[:2]):
            _fits(size + text.count(args[0]) * len(args[1]))
        case "join":
            parts, mark = (args[0], text) if isinstance(text, str) and args else (text, args[0] if args else "")
            _fits(_length(parts) + _length(mark) * (len(parts) if hasattr(parts, "__len__") else 1))
        case "format" | "format_map":
            _fits(max((int(width) for width in re.findall(r"[0-9]+", str(text))), default=0))
        case "expandtabs" | "indent":
            _fits(size + (str(text).count("\t") + str(text).count("\n") + 1) * (largest + 1))
        case "sum" if any(isinstance(arg, list | tuple | str) for arg in args):
            raise TooMuch("it adds up lists")
    _fits(largest)


def _fitting(value: Any) -> Any:
    if isinstance(value, str | list | tuple | dict):
        _fits(len(value))
    return value


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is measured, and guessed before; jinja hands some of them its context or environment first."""

    @wraps(function)
    def measured(*args: Any, **settings: Any) -> Any:
        _tick()
        given = [value for value in (*args, *settings.values()) if not isinstance(value, jinja2.Environment | Context | nodes.EvalContext)]
        if given:
            _will_fit(name, given[0], given[1:])
        return _fitting(function(*args, **settings))

    return measured
