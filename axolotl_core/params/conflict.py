"""Options that are incompatible, as a table beside the section that they belong to.

Conflict("warmup_ratio", lambda t: t.warmup_steps is not None and t.warmup_ratio is not None,
         "warmup_ratio and warmup_steps are both set; remove one")
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from axolotl_core.params.document import Where


@dataclass(frozen=True)
class Conflict:
    """A row of such a table, over one section or over all params.

    where: path of the option to change, `lora_r` in a section, `adapter.lora_r` in all params; when: whether the values conflict, or the
    options that do, each with what makes it so; says: the sentence. `{option}` and `{value}` in where and says stand for such an option,
    `{NAME}` in says for the value of an option of the section.
    """

    where: str
    when: Callable[[Any], bool | Mapping[str, Any]]
    says: str


def found(conflicts: Iterable[Conflict], section: Any, place: Where = ()) -> Iterator[tuple[Where, str]]:
    """(path of the option to change, sentence) of each conflict that the values have. place: of the section in params.yaml."""
    values = dict(section)
    for conflict in conflicts:
        hits = conflict.when(section)
        for option, value in hits.items() if isinstance(hits, Mapping) else [("", None)] if hits else []:
            named = {**values, "option": option, "value": value}
            yield (*place, *conflict.where.format(**named).split(".")), conflict.says.format(**named)


def when_to(strategy: str, steps: str, per_epoch: str) -> tuple[Conflict, ...]:
    """What is true of evaluations and of checkpoints alike: by steps, so often an epoch, or by name."""

    def given(section: Any) -> list[str]:
        return [option for option in (steps, per_epoch) if getattr(section, option) is not None]

    return (
        Conflict(per_epoch, lambda section: len(given(section)) > 1, f"{steps} and {per_epoch} are both set, and say the same; remove one"),
        Conflict(
            strategy,
            lambda section: getattr(section, strategy) == "steps" and not given(section),
            f"{strategy} is 'steps' but {steps} is unset; set it",
        ),
        Conflict(
            "{option}",
            lambda section: {given(section)[0]: 0} if given(section) and getattr(section, strategy) not in (None, "steps") else {},
            f"{{option}} does nothing with {strategy} '{{{strategy}}}'",
        ),
    )
