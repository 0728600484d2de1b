"""`sharegpt`: conversations of `human` and `gpt`, the first message may be `system`.

`conversation` chooses the template, `field_human` and `field_model` rename the roles.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
>>> print(load(Dataset(path="x", conversation="chatml"), None).read(row).marked)
<|im_start|>system
You are a helpful assistant.<|im_end|>
<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant
⟦Hello!<|im_end|>⟧
<BLANKLINE>
"""

from typing import Any

from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.conversation import conversation_of
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty

COLUMNS = ("conversations",)


def load(data: Dataset, style: str | None) -> Format:
    """Field `conversations`: a list of {"from", "value"}."""
    if style not in (None, "chat"):  # `sharegpt:chat` is the old spelling of sharegpt
        raise ParamsError(f"sharegpt has no style, got 'sharegpt:{style}'; choose the template with `conversation`")
    template = conversation_of(data.conversation)
    roles = {data.field_human or "human": "user", data.field_model or "gpt": "assistant"}

    def read(row: Row) -> Example:
        system, messages = _messages(row["conversations"])
        if messages[0].get("from") not in roles and len(messages) > 1 and roles.get(messages[1].get("from")) == "user":
            messages = messages[1:]  # some dumps begin with a message of another role in front of the user's
        return template.write(system, [(_role(message, roles), text_or_empty(message, "value")) for message in messages])

    return Format("sharegpt", COLUMNS, read)


def _messages(value: Any) -> tuple[str, list[dict[str, Any]]]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError('field \'conversations\' is no list of {"from", "value"}')
    if len(value) < 2:
        raise DataError(f"field 'conversations' has {len(value)} messages, wanted at least 2")
    if value[0].get("from") == "system":
        return text(value[0], "value"), value[1:]
    return "", value


def _role(message: dict[str, Any], roles: dict[str, str]) -> str:
    role = message.get("from")
    if role not in roles:
        raise DataError(f"a message is from '{role}', wanted {' or '.join(roles)} (field_human, field_model rename them)")
    return roles[role]
