"""What differs between two identities: of an artifact and of now, of a checkpoint and of this run."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from axolotl_core.artifacts.key import canonical


class Difference(NamedTuple):
    """old or new: None where that side has no such entry."""

    name: str
    old: Any
    new: Any


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Leaves of nested mappings that are not the same JSON (16 is not 16.0), by their dotted names, sorted.

    >>> differences({"training": {"seed": 1, "fp16": True}}, {"training": {"seed": 2, "fp16": True}})
    [Difference(name='training.seed', old=1, new=2)]
    """
    before, after = dict(leaves(old)), dict(leaves(new))
    names = sorted({*before, *after})
    return [
        Difference(name, before.get(name), after.get(name)) for name in names if canonical(before.get(name)) != canonical(after.get(name))
    ]


def leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Values that are no mappings, with their dotted names; an empty mapping has none."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, values
