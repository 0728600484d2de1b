"""Reading a list of messages: [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]."""

from collections.abc import Iterable, Mapping
from typing import Any

from axolotl_core.errors import DataError, ParamsError, nearest
from axolotl_core.prompts.example import Row, kind_of_list, listed, text_or_empty

Turns = list[tuple[str, str]]
"""("user" or "assistant", text)."""


def messages_of(row: Row, field: str, keys: str, least: int) -> list[dict[str, Any]]:
    """The messages in a field. keys: how one looks, for the error. Raises DataError: no list, too few."""
    value = listed(row.get(field))
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f"field '{field}' is {kind_of_list(value)}, wanted a list of {keys}")
    if len(value) < least:
        raise DataError(f"field '{field}' has {len(value)} messages, wanted at least {least}")
    return value


def conversation(row: Row, role: str, content: str, roles: Mapping[str, str]) -> tuple[str, Turns]:
    """(system text, turns) of the field `conversations`, whose first message may be from `system`.

    roles: a role of the data → user or assistant.

    Some dumps begin with a message of another role in front of the user's, which is left out.
    Raises DataError: no list, fewer than two messages, a role that is not among `roles`.
    """
    messages = messages_of(row, "conversations", f'{{"{role}", "{content}"}}', 2)
    system = ""
    if messages[0].get(role) == "system":
        system, messages = text_or_empty(messages[0], content), messages[1:]
    meant = [roles.get(str(message.get(role))) for message in messages[:2]]
    if meant == [None, "user"]:
        messages = messages[1:]
    return system, [(role_of(message, role, roles), _said(message, content)) for message in messages]


def role_of(message: Mapping[str, Any], key: str, roles: Mapping[str, str]) -> str:
    """What a message's role means. Raises DataError for one that is not among `roles`."""
    role = message.get(key)
    if not isinstance(role, str) or role not in roles:
        raise DataError(f"a message is from '{role}', wanted {' or '.join(roles)} (field_human, field_model rename them)")
    return roles[role]


def _said(message: dict[str, Any], content: str) -> str:
    if content not in message:
        raise DataError(f"a message has the keys {', '.join(message) or 'none'}, wanted '{content}'")
    return text_or_empty(message, content)


def trained(wanted: Iterable[str] | None, roles: Mapping[str, str]) -> frozenset[str]:
    """`roles_to_train` in our names; unset: the assistant. roles: a role of the data → system, user, assistant, tool.

    Raises ParamsError for a name that is neither a role of the data nor one of ours.
    """
    if wanted is None:
        return frozenset({"assistant"})
    known = {**{role: role for role in roles.values()}, "system": "system", **roles}
    for name in wanted:
        if name not in known:
            raise ParamsError(f"roles_to_train: no role is called '{name}'{nearest(name, known)}; there are {', '.join(known)}")
    return frozenset(known[name] for name in wanted)
