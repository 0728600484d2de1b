"""A plan as text and as JSON: what `axolotl plan`, `why` and `check` print."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from axolotl_core.params.document import Document
from axolotl_core.params.params import SECTIONS
from axolotl_core.params.section import show
from axolotl_core.progress import clock
from axolotl_core.sources.files import BUILDERS
from axolotl_core.stages.plan import Cause, Planned

DIGITS = 12
"""Of a digest that are shown."""
WIDTH = 44


@dataclass(frozen=True)
class Shown:
    """What is printed of a plan besides the plan. document: the params file, with its lines; rows: (step, file in its key) → rows then
    and now; where: step → where its result can be had without running it; training: of train, if the rows are packed."""

    document: Document
    rows: Mapping[tuple[str, str], tuple[int | None, int | None]] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, int] = field(default_factory=dict)


def as_json(plan: Sequence[Planned], shown: Shown) -> dict[str, Any]:
    """{"stages": [{"stage", "state", "because": [{"kind", "name", "old", "new"}], "from", "made"}]}."""
    return {"stages": [_entry(planned, shown) for planned in plan]}


def _entry(planned: Planned, shown: Shown) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "stage": planned.step.name,
        "state": planned.state,
        "because": [_cause(cause, planned, shown) for cause in planned.because],
        "from": source_of(planned, shown),
        "made": _made(planned),
    }
    if planned.step.stage.name == "train" and shown.training:
        entry["training"] = dict(shown.training)
    return entry


def _cause(cause: Cause, planned: Planned, shown: Shown) -> dict[str, Any]:
    found = asdict(cause) | {"name": _name(cause, planned, shown)}
    if cause.kind == "option":
        old, new = _values(cause)
        found |= {"old": old, "new": new, "place": shown.document.place(tuple(cause.name.split(".")))}
    if rows := shown.rows.get((planned.step.name, cause.name)):
        found |= {"old_rows": rows[0], "new_rows": rows[1]}
    return found


def _made(planned: Planned) -> dict[str, Any] | None:
    """When and on which versions the present artifact was made."""
    if planned.made is None:
        return None
    record = planned.made.record
    work = record.get("work", {})
    return {"at": work.get("at"), "took_s": work.get("took_s"), "revision": record["revision"], "versions": record["versions"]}


def source_of(planned: Planned, shown: Shown) -> str | None:
    """Where the result of a step is: artifacts, store, dvc-cache, remote, or nowhere."""
    if planned.state == "up-to-date":
        return "artifacts"
    return "store" if planned.kept else shown.where.get(planned.step.name)


def plan_lines(plan: Sequence[Planned], shown: Shown) -> Iterator[str]:
    """A line per step, and a last one with the count."""
    width = max(len(planned.step.name) for planned in plan)
    for planned in plan:
        yield f"{planned.step.name:<{width}}  {_action(planned, shown):<10}  {_reason(planned, shown)}".rstrip()
        if planned.step.stage.name == "train" and planned.state == "run":
            counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in shown.training.items())
            yield f"{'':<{width}}  {'':<10}  {counts or 'steps, rows and target tokens are known once pack has run'}"
    runs = [planned for planned in plan if _action(planned, shown) == "run"]
    if not any(planned.state != "up-to-date" for planned in plan):
        yield "everything is up to date"
        return
    times = [made["took_s"] for planned in runs if (made := _made(planned)) and made["took_s"] is not None]
    took = f"; {'they' if len(times) == len(runs) else f'{len(times)} of them'} took {clock(sum(times))} last time" if times else ""
    cannot = sum(planned.state == "missing-input" for planned in plan)
    blocked = f"; {cannot} cannot, because inputs are missing" if cannot else ""
    yield f"{len(runs)} of {len(plan)} stages would run{took}{blocked}"


HOW_TO_GET = {"dvc-cache": "`dvc checkout` puts it in place", "remote": "`axolotl pull` brings it"}
ACTIONS = {"artifacts": "-", "store": "restore", "dvc-cache": "dvc cache", "remote": "remote"}


def _action(planned: Planned, shown: Shown) -> str:
    if planned.state == "missing-input":
        return "missing"
    source = source_of(planned, shown)
    return ACTIONS[source] if source else "run"


def _reason(planned: Planned, shown: Shown) -> str:
    source = source_of(planned, shown)
    if source == "artifacts":
        return "up to date"
    if planned.state == "missing-input":
        reason = "; ".join(sentence(cause, planned, shown) for cause in planned.because[:3])
        return reason + (f" (its result: {HOW_TO_GET[source]})" if source in HOW_TO_GET else "")
    if source in HOW_TO_GET:
        return HOW_TO_GET[source]
    if is_new(planned):
        return "no result yet"
    causes = roots(planned)
    if not causes and planned.because:
        names = [cause.name for cause in planned.because]
        return f"input {', '.join(names[:3])}{', …' if names[3:] else ''} will change"
    return "; ".join(sentence(cause, planned, shown) for cause in causes[:3]) + ("; …" if causes[3:] else "")


def roots(planned: Planned) -> list[Cause]:
    """Causes that begin at this step, and are not just that a step before it would make an input that it has had before."""
    return [cause for cause in planned.because if cause.kind != "input" or cause.new is not None or cause.old is None]


def is_new(planned: Planned) -> bool:
    """Whether nothing is known of an earlier run."""
    never = (Cause("missing", planned.step.output),)
    return planned.state == "run" and not planned.kept and planned.because == never


def why_lines(plan: Sequence[Planned], shown: Shown, chain: Sequence[str]) -> Iterator[str]:
    """The first changed ingredients along a chain of steps, what follows from them, and how the last artifact of it was made.

    plan: of all steps, of which those behind the chain are named where they follow.
    """
    own = [planned for planned in plan if planned.step.name in chain]
    changed = [planned for planned in own if planned.state != "up-to-date"]
    if not changed:
        yield "everything is up to date" if len(own) == len(plan) else f"{own[-1].step.name} is up to date"
    if new := [planned.step.name for planned in changed if is_new(planned)]:
        yield f"{', '.join(new)}: no result yet"
    for planned in changed:
        if not is_new(planned) and (causes := roots(planned)):
            yield f"{planned.step.name}  {_state(planned, shown)}"
            for cause in causes:
                yield f"  {row(cause, planned, shown)}"
    behind = [planned for planned in plan if planned.state == "run" and planned.step.name not in chain and planned.made and changed]
    if follow := [planned.step.name for planned in (*changed, *behind) if not roots(planned)]:
        yield f"{', '.join(follow)} would run after that, unless what they read comes out the same"
    if len(own) < len(plan) and (made := _made(own[-1])):
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items() if version != "not installed")
        when = f", made {made['at']} in {clock(made['took_s'])}" if made["at"] else ""
        yield f"current result: {own[-1].step.output}{when} (stage revision {made['revision']}; {versions})"


def _state(planned: Planned, shown: Shown) -> str:
    source = source_of(planned, shown)
    if source:
        return f"is in {dict(ACTIONS, store='.axolotl/store')[source]}"
    return "cannot run: input missing" if planned.state == "missing-input" else "would run"


def row(cause: Cause, planned: Planned, shown: Shown) -> str:
    """A cause in columns: name, old → new, place."""
    place = shown.document.place(tuple(cause.name.split("."))) if cause.kind == "option" else ""
    change = _change(cause, planned, shown)
    return f"{_name(cause, planned, shown):<{WIDTH}} {change}{f'   {place}' if place else ''}".rstrip()


def sentence(cause: Cause, planned: Planned, shown: Shown) -> str:
    """A cause in a line with others."""
    return f"{_name(cause, planned, shown)} {_change(cause, planned, shown)}"


def _name(cause: Cause, planned: Planned, shown: Shown) -> str:
    """As a user knows it: of a dataset's file the path below that of params.yaml, `file:0:a.jsonl` → `data/a.jsonl`."""
    values = shown.document.values
    match cause.kind, cause.name.split(":", 2):
        case "revision", _:
            return f"revision of {cause.name}"
        case "file", ["file"]:
            return f"file of {'the tokenizer' if planned.step.output == 'tokenizer' else 'the base model'}"
        case "file", ["file", _, name]:
            path = str(values["datasets"][planned.step.dataset]["path"]).rstrip("/")
            return path if path.endswith(name) else name if path in BUILDERS else f"{path}/{name}"
        case "file", [kind, *name] if name and kind != "hub":
            return ":".join(name)
    return cause.name


def _change(cause: Cause, planned: Planned, shown: Shown) -> str:
    if cause.kind == "missing":
        return str(cause.new or "is not there")
    if cause.kind == "option":
        old, new = map(show, _values(cause))
    elif cause.kind == "input" and cause.new is None and cause.old is None:
        return "is a new input"
    else:
        old, new = (_digest(value) for value in (cause.old, cause.new))
    rows = shown.rows.get((planned.step.name, cause.name))
    counts = f" ({_count(rows[0])} → {_count(rows[1])} rows)" if rows else ""
    return f"{old} → {new}{counts}"


def _digest(value: Any) -> str:
    """Of what is not a digest, such as the revision of a hub repository, all."""
    return "none" if value is None else value[:DIGITS] if re.fullmatch("[0-9a-f]{32}", value) else str(value)


def _count(rows: int | None) -> str:
    return "?" if rows is None else f"{rows:,}"


def _values(cause: Cause) -> tuple[Any, Any]:
    """old and new with the default in the place of an unset option."""
    default = _default(cause.name)
    old, new = (default if value is None else value for value in (cause.old, cause.new))
    return old, new


def _default(name: str) -> Any:
    section, *path = name.split(".")
    option = path[1] if section == "datasets" and len(path) == 2 else path[0] if len(path) == 1 else None
    found = SECTIONS[section].model_fields.get(option) if section in SECTIONS and option else None
    return None if found is None or found.is_required() else found.get_default(call_default_factory=True)
