"""`chat_template`: conversations written by the tokenizer's own chat template, or by another one (option `chat_template`).

The text is what the model sees when it is asked, its ids are those of `apply_chat_template`. Labels come from the
template: what a message of `roles_to_train` wrote is trained, and with `train_on_eot` the token that ends its turn.
Field `messages` or `conversations` (or `field_messages`), each message with `role` or `from`, `content` or `value` (or
`message_field_role`, `message_field_content`); a field `tools` and tool calls go to the template as they are. A content that
is a list of parts is the text of its parts.

>>> from axolotl_core.params.datasets import Dataset
>>> source = "{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
>>> row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
>>> print(written(Dataset(path="x"), ChatTemplate(source)).read(row).marked)
<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant
⟦Hello!<|im_end|>⟧
<BLANKLINE>
"""

import datetime
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from axolotl_core.errors import DataError, ModelError, ParamsError, nearest
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, Segment, Vocabulary, kind
from axolotl_core.prompts.messages import messages_of, trained
from axolotl_core.prompts.template import DATE, ChatTemplate, Message, Span
from axolotl_core.prompts.templates import template_of
from axolotl_core.prompts.wrap import no_style

COLUMNS: tuple[str, ...] = ()
FIELDS, ROLE_KEYS, CONTENT_KEYS = ("messages", "conversations"), ("role", "from"), ("content", "value")
CLOCK = "strftime_now"
REASONING = "reasoning_content"
"""What templates call a message's reasoning."""
THOUGHT = re.compile(
    r"\s*(?:<(?P<tag>think|thinking|reasoning)>(?P<thought>.*?)</(?P=tag)>|<\|begin_of_thought\|>(?P<other>.*?)<\|end_of_thought\|>)\n*",
    re.DOTALL,
)
SAID = frozenset({"tool_calls", "reasoning_content", "thinking"})
"""Keys besides the content with which a message says something."""
ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    "human": "user",
    "gpt": "assistant",
    "function": "tool",
}
"""A role of the data → the template's; `roles` adds to it."""


def load(data: Dataset, style: str | None) -> Format:
    """Raises ParamsError: no such Jinja file, or a role that is not known."""
    no_style("chat_template", style)
    given = template_of(data, Path())
    roles = _roles(data)
    trained(data.roles_to_train, roles)
    date_of(data)
    if given.source is not None:
        _checked(ChatTemplate(given.source), data)  # told before any row is read

    if CLOCK in data.chat_template_kwargs:
        raise ParamsError(f"chat_template_kwargs: {CLOCK} is a function that templates call; set chat_template_date, such as 2025-05-01")

    def fit(vocabulary: Vocabulary) -> Format:
        source = given.source or own_template(vocabulary.folder, given.fallback)
        template = ChatTemplate(source, vocabulary.special, data.chat_template_kwargs, vocabulary.added, date_of(data))
        return replace(written(data, _checked(template, data)), notes=_notes(source, data))

    def unfitted(row: Row) -> Example:
        raise LookupError("chat_template reads rows only when it knows the tokenizer: call fit")

    return Format("chat_template", COLUMNS, unfitted, fit=fit)


def written(data: Dataset, template: ChatTemplate) -> Format:
    """The format with its template."""
    roles = _roles(data)
    train, ends = trained(data.roles_to_train, roles), ends_of(data)

    def read(row: Row) -> Example:
        messages, on = _messages(row, data, roles)
        requested = [message["role"] in train if on[i] is None else on[i] for i, message in enumerate(messages)]
        wanted = [i for i, message in enumerate(messages) if requested[i] and _says_something(message)]
        tools = _decoded(row.get(data.field_tools or "tools")) or None
        if ends == "all":
            text, spans = template.spans(messages, tools, range(len(messages)))
            spans = [span if span.message in wanted else template.end_of(text, span) for span in spans]
        else:
            text, spans = template.spans(messages, tools, wanted, with_end=ends == "turn")
        if ends == "last" and wanted and wanted[-1] == len(messages) - 1:
            spans[-1] = template.with_end(text, spans[-1])
        return _cut(text, spans, messages, ends=ends in ("turn", "all"))

    return Format("chat_template", COLUMNS, read)


def ends_of(data: Dataset) -> str:
    """Which tokens that end a turn are trained: `turn`, `all`, `last` or `none`."""
    requested = data.train_on_eos if data.train_on_eot is None else data.train_on_eot
    return {True: "turn", False: "none", None: "turn"}.get(requested, requested)  # type: ignore[arg-type, return-value, call-overload]


def date_of(data: Dataset) -> datetime.date:
    """What the template takes for today. Raises ParamsError for a date that there is not."""
    try:
        return DATE if data.chat_template_date is None else datetime.date.fromisoformat(data.chat_template_date)
    except ValueError as error:
        raise ParamsError(f"chat_template_date: {data.chat_template_date} is no date: {error}") from None


def _notes(source: str, data: Dataset) -> tuple[str, ...]:
    """What of the template the user did not choose."""
    if CLOCK not in source or data.chat_template_date:
        return ()
    return (f"the chat template writes today's date, which is {DATE} here whatever the day (chat_template_date)",)


def own_template(folder: Path, fallback: str | None = None) -> str:
    """The tokenizer's chat template, or the fallback where it has none. Raises ModelError where there is no fallback either."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8-sig")
    found = json.loads(config.read_text(encoding="utf-8-sig")).get("chat_template")
    if isinstance(found, list):  # several of them, by name
        found = next((entry["template"] for entry in found if entry["name"] == "default"), None)
    if not found and fallback is None:
        raise ModelError(
            "the tokenizer has no chat template; give one as `chat_template` of the dataset, a Jinja file or a name such as chatml"
        )
    return str(found or fallback)


def _roles(data: Dataset) -> dict[str, str]:
    return {**ROLES, **{theirs: ours for ours, names in data.roles.items() for theirs in names}}


def looked_at(data: Dataset, row: Row) -> None:
    """Whether a row is a conversation, its template aside. Raises DataError."""
    _messages(row, data, _roles(data))


def _messages(row: Row, data: Dataset, roles: dict[str, str]) -> tuple[list[Message], list[bool | None]]:
    """The messages as templates want them, and whether the row itself says that one is trained; None where it says nothing."""
    field = data.field_messages or next((f for f in FIELDS if f in row), FIELDS[0])
    if field not in row:
        wanted = f"'{field}'" if data.field_messages else "'messages' or 'conversations'"
        raise DataError(
            f"format chat_template wants the field {wanted}, the row has {', '.join(row) or 'no field'}; field_messages names it"
        )
    found = messages_of(row, field, '{"role", "content"}', 1)
    mapped = {theirs: ours for ours, theirs in data.message_property_mappings.items()}
    if data.field_thinking:
        mapped[data.field_thinking] = data.template_thinking_key or REASONING
    role_key = data.message_field_role or data.message_property_mappings.get("role")
    role_key = role_key or next((k for k in ROLE_KEYS if k in found[0]), ROLE_KEYS[0])
    content_key = data.message_field_content or data.message_property_mappings.get("content")
    content_key = content_key or next((k for k in CONTENT_KEYS if any(k in m for m in found)), CONTENT_KEYS[0])
    messages = []
    for message in found:
        role = message.get(role_key)
        if not isinstance(role, str) or role not in roles:
            near = nearest(str(role), roles)
            raise DataError(f"a message is from {role_key} '{role}'{near}; known are {', '.join(roles)}, and `roles` adds to them")
        rest = {mapped.get(key, key): v for key, v in message.items() if key not in (role_key, content_key) and v is not None}
        if content_key not in message and not rest.keys() & SAID:
            keys = ", ".join(message)
            raise DataError(f"a message has the keys {keys}, wanted '{content_key}'; message_field_content names another")
        rest.pop(mapped.get(data.message_field_training or "", data.message_field_training or ""), None)
        if "tool_calls" in rest:
            rest["tool_calls"] = _with_arguments(rest["tool_calls"])
        content = _text(message.get(content_key))
        if data.split_thinking and roles[role] == "assistant" and isinstance(content, str):
            content, thought = _split(content)
            rest = {**({data.template_thinking_key or REASONING: thought} if thought else {}), **rest}
        messages.append({"role": roles[role], "content": content, **rest})
    flags = [message.get(data.message_field_training or "") for message in found]
    on = [flag if isinstance(flag, bool) else None for flag in flags]
    kept = [i for i, message in enumerate(messages) if not (data.drop_system_message and message["role"] == "system")]
    return [messages[i] for i in kept], [on[i] for i in kept]


def _text(content: Any) -> Any:
    """Content as templates write it: parts of type `text` make one text, as those of OpenAI's format. Raises DataError for others."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        found = (
            part if isinstance(part, str) else part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
        )
        if not isinstance(found, str):
            what = f"of type '{part.get('type')}'" if isinstance(part, dict) else f"that is {kind(part)}"
            raise DataError(f"a message has a content part {what}, wanted parts of type 'text'; leave such rows out")
        texts.append(found)
    return "".join(texts)


def _split(content: str) -> tuple[str, str]:
    """(the answer, its reasoning) of `<think>reasoning</think>answer`; without such tags all is the answer.

    >>> _split("<think>\\nTwo and two.\\n</think>\\n\\nFour.")
    ('Four.', 'Two and two.')
    """
    found = THOUGHT.match(content)
    return (content[found.end() :], (found["thought"] or found["other"] or "").strip("\n")) if found else (content, "")


def _says_something(message: Message) -> bool:
    content = message["content"]
    return bool(content.strip() if isinstance(content, str) else content) or any(message.get(key) for key in SAID)


def _with_arguments(calls: Any) -> Any:
    """OpenAI's tool calls carry their arguments as JSON text; templates want the object."""
    if not isinstance(calls, list):
        return calls
    return [
        {**call, "function": {**call["function"], "arguments": _decoded(call["function"].get("arguments"))}}
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
        else call
        for call in calls
    ]


def _checked(template: ChatTemplate, data: Dataset) -> ChatTemplate:
    """Raises ParamsError where the template itself says what is trained and the dataset something else."""
    if template.marks_generation and (data.roles_to_train is not None or ends_of(data) != "turn"):
        option = "roles_to_train" if data.roles_to_train is not None else "train_on_eos" if data.train_on_eos else "train_on_eot"
        raise ParamsError(f"{option} does nothing: the chat template's generation blocks say what is trained; remove it")
    return template


def _decoded(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _cut(text: str, spans: list[Span], messages: list[Message], *, ends: bool = True) -> Example:
    """The text cut where training begins and ends; all of it is encoded in one."""
    segments, at = [], 0
    for span in spans:
        role = messages[span.message]["role"]
        segments += [Segment(text[at : span.start], glue=bool(segments)), Segment(text[span.start : span.end], True, glue=True, role=role)]
        at = span.end
    segments.append(Segment(text[at:], glue=bool(segments)))
    return Example(tuple(segments), bos=False, ends=ends)
