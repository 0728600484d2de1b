"""JSON read and written so that no value changes on the way.

orjson is quick, but makes a float of an integer over 64 bits and keeps the last of two equal keys without a word. Where a text
could hold either, Python's own parser reads it.
"""

import json
from typing import Any

import orjson

DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
MOST_DEPTH = 200
TOO_DEEP = f"nested over {MOST_DEPTH} deep"
"""orjson writes 254 levels at most, and a format may put a row's value a few levels down."""
LONG = b"0" * 19
"""Nineteen digits can be more than 64 bits."""


def loads(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises ValueError: no JSON, a key twice in an object, an integer of over 4,300 digits, nested over MOST_DEPTH deep.
    """
    data = text.encode() if isinstance(text, str) else text
    if LONG not in data.translate(DIGITS):
        value = orjson.loads(data)
        if _keys(value) == _colons(data):
            return value
    try:
        value = json.loads(data, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _keys(value)
    return value


def _colons(data: bytes) -> int:
    """How many keys a text has, if each colon stands behind its key or one blank: `\\":` is inside a string."""
    return sum(data.count(b'"' + blank + b":") - data.count(b'\\"' + blank + b":") for blank in (b"", b" ", b"\t", b"\n"))


def dumps(value: Any) -> bytes:
    """A value as compact JSON. Raises TypeError for what JSON has no word for."""
    try:
        return orjson.dumps(value, default=_plain)
    except orjson.JSONEncodeError as error:
        if error.__cause__ is not None:
            raise error.__cause__ from None
        if "Integer exceeds" not in str(error):
            raise
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=False).encode()


def _keys(value: Any, depth: int = 1) -> int:
    """How many keys the objects in a value have. Raises ValueError where it is nested too deeply."""
    if depth > MOST_DEPTH:
        raise ValueError(TOO_DEEP)
    if type(value) is dict:
        count = len(value)
        for inner in value.values():
            if type(inner) is dict or type(inner) is list:
                count += _keys(inner, depth + 1)
        return count
    if type(value) is not list:
        return 0
    return sum([_keys(inner, depth + 1) for inner in value if type(inner) is dict or type(inner) is list])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"the key '{twice}' is twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a value of JSON")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        raise TypeError("a column holds bytes; remove it or turn it into text")
    return str(value)
