"""A tokenizer's chat template, rendered, and which characters of the text each message wrote.

    render        <|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎Hello!<|im_end|>⏎
    with a mark   <|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎▮<|im_end|>⏎
    so it wrote                                                      ⟦Hello!⟧

No text is searched for: a message is rendered once more with a mark in its place, and what differs is what it wrote.
What the template writes between its generation prompt and that belongs to it as well (an empty `<think>` for
instance), and so do blanks in front, which are one token with the first word, and the token that ends the turn. A
template with `{% generation %}` blocks says all of it itself.

    1. skeleton   all contents replaced by marks: once for each sequence of roles, kept
    2. match      skeleton with the contents (or the contents stripped) put in = the rendered text: done
    3. differ     else message by message: common beginning, common end

The environment is that of transformers' apply_chat_template, but for `strftime_now`: a text must not depend on the day it was
tokenised, so it gives the time of `chat_template_date`.
"""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from axolotl_core.errors import DataError, ParamsError
from axolotl_core.prompts.sandbox import LimitedEnvironment, TooMuch

Message = dict[str, Any]
MARK, BEGIN, END = "\ufdd4", "\ufdd2", "\ufdd3"
"""Unicode noncharacters: no text may contain them, so they can stand for places."""
MARKS = re.compile(f"{MARK}([0-9]+){MARK}")
MOST_SKELETONS = 1000
ADDED = re.compile(r"<\|[^|]*\|>|</?s>")
OPENED = re.compile(r"<(\w+)>(?!.*</\1>)", re.DOTALL)
"""A tag such as `<think>` that is not closed."""
DATE = datetime.date(2024, 7, 26)
"""What `strftime_now` says unless chat_template_date does: the day that Llama 3.1's own template falls back to."""


@dataclass(frozen=True)
class Span:
    """Characters start..end that message number `message` wrote, with the token that ends its turn."""

    message: int
    start: int
    end: int


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: marks what it encloses as the assistant's."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_enclose"), [], [], body).set_lineno(line)

    def _enclose(self, caller: Any) -> str:
        return f"{BEGIN}{caller()}{END}"


class ChatTemplate:
    """source: Jinja; special: `bos_token` and the like; settings: further variables; added: matches what can end a turn;
    date: of `strftime_now`.

    Raises ParamsError for a template that is not Jinja.
    """

    def __init__(
        self,
        source: str,
        special: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        added: re.Pattern[str] = ADDED,
        date: datetime.date = DATE,
    ) -> None:
        environment = LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.add_filter("tojson", _tojson)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = datetime.datetime.combine(date, datetime.time(12)).strftime
        try:
            self.template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ParamsError(f"the chat template is not valid Jinja, line {error.lineno}: {error.message}") from None
        except (RecursionError, MemoryError, OverflowError, SyntaxError):
            raise ParamsError("the chat template is nested too deeply to be read") from None
        self.environment = environment
        self.variables = {**(special or {}), **(settings or {})}
        self.added = added
        self.marks_generation = "generation" in re.findall(r"{%-?\s*(\w+)", source)
        self._skeletons: dict[tuple[str, ...], list[str] | None] = {}

    def render(self, messages: Sequence[Message], tools: Any = None, *, generate: bool = False) -> str:
        """The conversation as text. Raises DataError where the template refuses it."""
        given = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": generate}
        try:
            self.environment.rendering(_size(messages) + _size(tools))
            return self.environment.written(self.template.generate(**given, **self.variables))
        except TooMuch as error:
            raise DataError(f"the chat template costs too much: {error}") from None
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template does not take this conversation: {error}") from None
        except RecursionError:
            raise DataError("the chat template fails on this conversation: it calls itself without end") from None
        except (TypeError, LookupError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
            raise DataError(f"the chat template fails on this conversation: {type(error).__name__}: {error}") from None

    def spans(self, messages: Sequence[Message], tools: Any, wanted: Sequence[int], *, with_end: bool = True) -> tuple[str, list[Span]]:
        """The text, and what each wanted message wrote, with the token that ends its turn.

        Raises DataError where a wanted message is not in the text.
        """
        text = self.render(messages, tools)
        self._writes_tools(messages, tools)
        if self.marks_generation:
            return _enclosed(text, messages, wanted)
        places = self._by_skeleton(text, messages, tools) or {}
        found = []
        for i in wanted:
            if i in places:
                start, end = places[i]
                before = places[i - 1][1] if i else 0
            else:
                start, end = self._by_difference(text, messages, tools, i)
                before = 0
            header = text.rfind(self.generation_prompt, before, start) if self.generation_prompt else -1
            start = header + len(self.generation_prompt) if header >= 0 else start
            while start > before and text[start - 1] == " ":
                start -= 1
            found.append(Span(i, start, self._turn_end(text, end) if with_end else end))
        return text, found

    def _writes_tools(self, messages: Sequence[Message], tools: Any) -> None:
        """Raises DataError where tool calls or what a tool said leave no trace in the text, as in templates that know no tools."""
        for i, message in enumerate(messages):
            if message.get("tool_calls") and len(marked := _marked(message)) > 2:
                versions, what = [marked[2]], "tool calls"
            elif message["role"] == "tool":
                versions, what = [{**message, "content": MARK}, {"role": "tool", "content": MARK}], "content"
            else:
                continue
            for version in versions:
                try:
                    if MARK in self.render([version if j == i else m for j, m in enumerate(messages)], tools):
                        break
                except DataError:
                    break  # it refuses the mark, so it looks at what it gets
            else:
                raise DataError(f"the chat template does not write the {what} of message {i + 1}, from '{message['role']}'")

    def with_end(self, text: str, span: Span) -> Span:
        """The span with the token that ends its turn."""
        return replace(span, end=self._turn_end(text, span.end))

    def end_of(self, text: str, span: Span) -> Span:
        """Of a span that has it: the token that ends its turn alone."""
        end = self.turn_end
        return replace(span, start=span.end - len(end) if end and text[: span.end].endswith(end) else span.end)

    @cached_property
    def generation_prompt(self) -> str:
        """What stands in front of a reply: `<|im_start|>assistant⏎`; empty where the template has none."""
        conversation = [{"role": "user", "content": "x"}]
        try:
            without, with_prompt = self.render(conversation), self.render(conversation, generate=True)
        except DataError:
            return ""
        return with_prompt.removeprefix(without) if with_prompt.startswith(without) else ""

    @cached_property
    def closing(self) -> str:
        """What stands after a reply that is the last message: `<|im_end|>⏎`."""
        try:
            text = self.render([{"role": "user", "content": "x"}, {"role": "assistant", "content": MARK}])
        except DataError:
            return ""
        return text.rpartition(MARK)[2]

    @property
    def turn_end(self) -> str | None:
        """The token that ends a turn, `<|im_end|>`: the first special token of `closing`."""
        token = self.added.search(self.closing)
        return token[0] if token else None

    def _turn_end(self, text: str, end: int) -> int:
        """Where the turn whose text ends at `end` is closed."""
        token = self.added.search(self.closing)
        return end + token.end() if token and text.startswith(self.closing[: token.end()], end) else end

    def _by_skeleton(self, text: str, messages: Sequence[Message], tools: Any) -> dict[int, tuple[int, int]] | None:
        if tools or any(len(m) != 2 or not isinstance(m["content"], str) for m in messages):
            return None
        roles = tuple(m["role"] for m in messages)
        if roles in self._skeletons:
            fragments = self._skeletons[roles]
        else:
            fragments = self._skeleton(roles)
            self._skeletons = {**self._skeletons, roles: fragments} if len(self._skeletons) < MOST_SKELETONS else {roles: fragments}
        if fragments is None:
            return None
        contents = [m["content"] for m in messages]
        for put in (contents, [content.strip() for content in contents]):
            if text == "".join(part for pair in zip(fragments, [*put, ""], strict=True) for part in pair):
                return _places(fragments, put)
        return None

    def _skeleton(self, roles: tuple[str, ...]) -> list[str] | None:
        try:
            text = self.render([{"role": role, "content": f"{MARK}{i}{MARK}"} for i, role in enumerate(roles)])
        except DataError:
            return None
        parts = MARKS.split(text)
        return parts[::2] if parts[1::2] == [str(i) for i in range(len(roles))] else None

    def _by_difference(self, text: str, messages: Sequence[Message], tools: Any, i: int) -> tuple[int, int]:
        """Where message i begins and ends in the text: behind what it is asked with, else where marked versions of it differ."""
        spans = []
        for marked in _marked(messages[i]):
            try:
                other = self.render([marked if j == i else m for j, m in enumerate(messages)], tools)
            except DataError:
                continue
            if MARK in other:
                start = common_beginning(text, other)
                spans.append((start, len(text) - common_beginning(text[start:][::-1], other[start:][::-1])))
        if not spans:
            raise DataError(f"the chat template does not write the content of message {i + 1}, from '{messages[i]['role']}'")
        start, end = min(start for start, _ in spans), max(end for _, end in spans)
        try:
            prompt = self.render(messages[:i], tools, generate=True) if i and self.generation_prompt else ""
        except DataError:
            prompt = ""
        if prompt and text.startswith(prompt):
            return min(start, len(prompt)), end
        before = prompt.removesuffix(self.generation_prompt)
        turn = len(before) if prompt != before and text.startswith(before) else start  # where the own header begins, if that is clear
        if tag := OPENED.search(text, turn, start):
            asks = " ".join(self.generation_prompt.split())
            raise DataError(
                f"message {i + 1} begins with {tag[0]}, but the chat template asks for it with '{asks}', so half of it would be trained; "
                "take the reasoning out of the row, or remove what makes the template ask so (enable_thinking: false)"
            )
        return start, end


def _marked(message: Message) -> list[Message]:
    """A message with a mark in place of all it says, of its text, and of its tool calls: templates refuse some of them."""
    versions = [{"role": message["role"], "content": MARK}, {**message, "content": MARK}]
    calls = message.get("tool_calls")
    if isinstance(calls, list) and all(isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls):
        marked = [{**call, "function": {**call["function"], "name": MARK, "arguments": {MARK: MARK}}} for call in calls]
        versions.append({**message, "tool_calls": marked})
    return versions


def _places(fragments: list[str], contents: list[str]) -> dict[int, tuple[int, int]]:
    places, at = {}, 0
    for i, content in enumerate(contents):
        at += len(fragments[i])
        places[i] = (at, at + len(content))
        at += len(content)
    return places


def _enclosed(text: str, messages: Sequence[Message], wanted: Sequence[int]) -> tuple[str, list[Span]]:
    """The text without marks, and what stood between them: one block for each message of the assistant, in order."""
    plain, blocks, at = [], [], 0
    for i, part in enumerate(re.split(f"[{BEGIN}{END}]", text)):
        if i % 2:
            blocks.append((at, at + len(part)))
        plain.append(part)
        at += len(part)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if len(blocks) != len(answers):
        raise DataError(f"the chat template marks {len(blocks)} blocks as generated, the conversation has {len(answers)} of the assistant")
    return "".join(plain), [Span(i, start, end) for i, (start, end) in zip(answers, blocks, strict=True) if i in wanted]


def common_beginning(a: str, b: str) -> int:
    """How many characters two texts begin with in common, by halving.

    >>> common_beginning("axolotl", "axon")
    3
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _size(value: Any) -> int:
    """Characters of the texts in a value, roughly."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0


def _tojson(value: Any, indent: int | None = None, separators: Any = None, sort_keys: bool = False, ensure_ascii: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
