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
"""Passes of loops and calls of macros in one rendering: about a second. A conversation of 500 messages that is looked at from each
of its messages has 250,000."""
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
        self.filters = {name: _measured(function) for name, function in self.filters.items()}

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
        text = getattr(__object, "__self__", None)
        if isinstance(text, str):
            _will_fit(__object.__name__, text, args)
        return _fitting(super().call(__context, __object, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            text, times = (left, right) if not isinstance(left, int) else (right, left)
            if isinstance(text, str | list | tuple) and isinstance(times, int):
                _fits(len(text) * times)
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and right * left.bit_length() > 4 * MOST_DIGITS:
            raise TooMuch("it makes a number of thousands of digits")
        if operator == "%" and isinstance(left, str):
            _will_fit("format", left, ())
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


def _will_fit(name: str, text: str, args: Sequence[Any]) -> None:
    """Before a method of str, or the filter of its name, is called: whether the result will not be too long."""
    if name == "replace" and len(args) > 1 and all(isinstance(part, str) for part in args[:2]):
        _fits(len(text) + text.count(args[0]) * len(args[1]))
    elif name == "join" and args and hasattr(args[0], "__len__"):
        _fits(len(text) * len(args[0]))
    elif name in ("format", "format_map"):
        _fits(max((int(width) for width in re.findall(r"[0-9]+", text)), default=0))
    else:
        _fits(max((number for number in args if isinstance(number, int)), default=0))


def _fitting(value: Any) -> Any:
    if isinstance(value, str | list):
        _fits(len(value))
    return value


def _measured(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is measured, and guessed before; jinja hands some of them its context or environment first."""
    name = function.__name__.removeprefix("do_").removeprefix("sync_do_")

    @wraps(function)
    def measured(*args: Any, **settings: Any) -> Any:
        given = [value for value in (*args, *settings.values()) if not isinstance(value, jinja2.Environment | Context | nodes.EvalContext)]
        text = str(given[1]) if name == "join" and len(given) > 1 else given[0] if given else ""
        if isinstance(text, str):
            _will_fit(name, text, given[:1] if name == "join" else given[1:])
        return _fitting(function(*args, **settings))

    return measured
