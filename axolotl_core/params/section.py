"""What all sections of params.yaml share: frozen, strict, no unknown keys, and the mark `Supported`."""

import re
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of params.yaml. Values are taken as YAML 1.2 gives them: `"8"` is no int, `yes` is no bool."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """What enters a stage's key: the values that differ from their defaults, as plain JSON.

        An option added later with a default that changes nothing therefore leaves every key as it was.
        """
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.without_effect()))

    def without_effect(self) -> frozenset[str]:
        """Options of a section in keys that change no result, with the values of the others."""
        return frozenset()

    def only(self, options: frozenset[str]) -> Self:
        """The section with these options and the required ones alone: who reads another one gets an AttributeError."""
        kept = {
            name: getattr(self, name) for name in self.model_fields_set if name in options or type(self).model_fields[name].is_required()
        }
        made = type(self).model_construct(**kept)  # of values that were validated
        for name, field in type(self).model_fields.items():
            if name not in options and not field.is_required():
                del made.__dict__[name]
        return made  # type: ignore[return-value]


@dataclass(frozen=True, init=False)
class Supported:
    """Marks an option of which only some values are acted on so far; any other value is refused, never ignored.

    `Annotated[int | None, Supported()]`: only the default. `Annotated[str, Supported("cosine")]`: the default and cosine.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


def acted_on(kind: type[Section], option: str, value: Any) -> str | None:
    """None where a section acts on this value of its option, else a sentence that says which values work now."""
    field = kind.model_fields[option]
    built = next((mark for mark in field.metadata if isinstance(mark, Supported)), None)
    default = field.get_default(call_default_factory=True)
    if built is None or value == default or any(value == v and type(value) is type(v) for v in built.values):
        return None
    works = ", ".join(show(v) for v in dict.fromkeys((default, *built.values)))
    return f"{option} is not acted on by this version; got {show(value)}, works now: {works}"


MOST_SHOWN = 200
SECRET = re.compile(r"(hf|sk|pk|gh[a-z]|glpat|xox[a-z]|wandb|api)[_-]\w|AKIA|eyJ|[0-9a-fA-F]{32}|[\w+/-]{40}")
"""How tokens and keys of services begin or look like."""


def is_secret(value: Any) -> bool:
    """Whether a text looks like a token or a key, which is never printed."""
    return isinstance(value, str) and SECRET.match(value) is not None


def show(value: Any) -> str:
    """A value as one would write it in YAML."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    shown = f"'{value}'" if isinstance(value, str) else str(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"
