"""params.yaml → Params: read, translate the flat spelling, apply --set, validate, explain what is wrong.

Every problem becomes one sentence: place, got, wanted, nearest name. All problems are told at once.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.conflicts import conflicts
from axolotl_core.params.datasets import UserPrompt
from axolotl_core.params.document import Document, Where, read, scalar
from axolotl_core.params.flat.sectioned import rename_in_datasets, replace_removed_optimizer, with_names
from axolotl_core.params.flat.translate import PER_PROCESS, batch_of, countable, is_flat, place_of, translate, what_became_of
from axolotl_core.params.model import RopeScaling
from axolotl_core.params.params import SECTIONS, Params, section_of
from axolotl_core.params.section import Section, acted_on, is_secret, show

NAME = re.compile(r"[A-Za-z0-9_-]+")


def load(path: Path, overrides: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None) -> Params:
    """Params of a sectioned params.yaml or of a flat Axolotl YAML.

    overrides: `training.learning_rate=1e-4` or `learning_rate=1e-4`, as given to --set. tell: gets a sentence for each
    value that is read as another one. Raises ParamsError with one line a problem.
    """
    document, notices = sections_of(path)
    override(document, overrides)
    for notice in (*notices, *replace_removed_optimizer(document)):
        tell(notice)
    return validate(document)


def sections_of(path: Path) -> tuple[Document, list[str]]:
    """The file as a document with sections, and sentences about what is read as something else.

    Raises ParamsError for an option of a flat file that asks for another result than params.yaml can; `axolotl import` leaves it out.
    """
    document = read(path)
    if not is_flat(document.values):
        found, migrations = with_names(document)
        return found, [f"{document.place(('datasets',))}: {migration.message}" for migration in migrations]
    made = translate(document)
    stops = [migration for migration in made.migrations if migration.stops]
    if stops:
        left_out = "\n".join(
            f"{document.place(place_of(migration))}: '{migration.option}' is left out: {migration.message}" for migration in stops
        )
        raise ParamsError(f"{left_out}\n{path}: `axolotl import {path}` writes a params.yaml without {_them(len(stops))}")
    notable = [
        migration
        for migration in made.migrations
        if (migration.status == "replaced" and migration.option not in PER_PROCESS)
        or (migration.status == "left out" and not migration.stops)
    ]
    lines = [f"{document.place(place_of(migration))}: {migration.option} → {migration.message}" for migration in notable]
    if countable(document.values) and not made.document.values.get("machine", {}).get("num_processes"):
        rows, each = batch_of(document.values)
        lines.append(f"{path}: batch_size {rows} = {each}; Axolotl takes so many on each GPU: --batch-size, or `axolotl import --num-gpus`")
    return made.document, lines


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def override(document: Document, overrides: Sequence[str]) -> None:
    """Apply `section.option=value` or `option=value` in place."""
    for text in overrides:
        where = place_of_override(text)
        document.set(where, scalar(text.partition("=")[2]))
        document.overridden.add(where)


def place_of_override(text: str) -> Where:
    """`learning_rate=1e-4` → ("training", "learning_rate"). Raises ParamsError where there is no such option, or no value."""
    name, equals, _ = text.partition("=")
    if not equals:
        raise ParamsError(f"--set {text}: got no '=', wanted option=value")
    where: Where = tuple(name.strip().split("."))
    if len(where) == 1 and where[0] in section_of():
        where = (section_of()[str(where[0])], where[0])
    if where[0] not in SECTIONS or len(where) == 1:
        raise ParamsError(f"--set {text}: no option is called '{name}'{nearest(name, section_of())}")
    return where


def validate(document: Document) -> Params:
    """Types and names by pydantic, then what is not built yet, then impossible pairs."""
    problems = [f"{document.place((key,))}: {message}" for key, message in _names(document.values)]
    problems += [f"{document.place(where)}: {message}" for where, message in rename_in_datasets(document)]
    values = {key: {} if value is None and key in SECTIONS and key != "datasets" else value for key, value in document.values.items()}
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        problems += list(_sentences(document, error.errors()))
    else:
        problems += [f"{document.place(where)}: {message}" for where, message in unsupported(params)]
        problems += [f"{document.place(where)}: {message}" for where, message in conflicts(params)]
    if problems:
        raise ParamsError("\n".join(dict.fromkeys(problems)))
    return params


def unsupported(params: Params) -> Iterator[tuple[Where, str]]:
    """Options set to a value that this version does not act on."""
    sections: list[tuple[Where, Section]] = [(("datasets", name), data) for name, data in params.datasets.items()]
    sections += [((name,), getattr(params, name)) for name in SECTIONS if name != "datasets"]
    for where, section in sections:
        for option in type(section).model_fields:
            if message := acted_on(type(section), option, getattr(section, option)):
                yield (*where, option), message


def _names(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    datasets = values.get("datasets")
    for name in datasets if isinstance(datasets, dict) else ():
        if not NAME.fullmatch(str(name)):
            yield "datasets", f"dataset name '{name}' is not made of letters, digits, _ and - (DVC needs that)"


def _sentences(document: Document, details: Sequence[ErrorDetails]) -> Iterator[str]:
    """One sentence a path; a union that fails has one detail a branch, which are told together."""
    grouped: dict[Where, list[ErrorDetails]] = {}
    for detail in details:
        grouped.setdefault(_place_of(document.values, detail), []).append(detail)
    for where, group in grouped.items():
        if not any(other != where and other[: len(where)] == where for other in grouped):
            yield f"{document.place(where)}: {_told(where, group)}"


def _told(where: Where, group: Sequence[ErrorDetails]) -> str:
    name, got = ".".join(map(str, where)), group[0]["input"]
    match group[0]["type"]:
        case "extra_forbidden":
            return f"'{where[-1]}' is not an option of {_owner(where)}{_nearest_option(where)}"
        case "missing":
            return f"{name} is missing; {WANTED.get(name, 'it has no default')}"
    wanted = [WORDS.get(d["type"]) or d.get("ctx", {}).get("expected") or d["msg"] for d in group]
    wanted = [w.removeprefix("Input should be ").removeprefix("a valid ") for w in wanted]
    near = nearest(str(got), re.findall(r"'([^']*)'", " ".join(wanted)))
    if is_secret(got) or (isinstance(got, str) and SECRETS.search(str(where[-1]))):
        return f"{name}: got what looks like a token (not shown), wanted {' or '.join(wanted)}; `hf auth login` or the environment keeps it"
    return f"{name}: got {show(got)}, wanted {' or '.join(wanted)}{near or _hint(group[0]['type'], got)}"


SECRETS = re.compile(r"token\b|_key\b|password|secret")
"""Names of options whose value may be a secret."""
WORDS = {"model_type": "a mapping of options", "dict_type": "a mapping", "too_short": "at least one entry", "string_type": "text"}
"""pydantic's kinds of errors whose own words are not for our users."""
WANTED = {
    "model": "wanted a section with base_model",
    "model.base_model": "wanted a hub repository, a folder, a .gguf file or package:NAME/FILE",
    "datasets": "wanted a mapping from a name to a dataset with path and type",
}


def _place_of(values: Any, detail: ErrorDetails) -> Where:
    """The path of a value, without the branches of unions that pydantic puts into it: `str`, `list[str]`, `UserPrompt`."""
    where: list[int | str] = []
    for part in detail["loc"]:
        inside = part in values if isinstance(values, dict) else isinstance(values, list) and isinstance(part, int)
        if inside:
            values = values[part]
        if inside or (detail["type"] == "missing" and part == detail["loc"][-1]):
            where.append(part)
    return tuple(where)


def _owner(where: Where) -> str:
    return f"the section '{where[0]}'" if len(where) > 1 else "params.yaml's top level"


def _nearest_option(where: Where) -> str:
    option = str(where[-1])
    if len(where) == 1:
        home = section_of().get(option)
        return f"; it belongs into the section '{home}'" if home else nearest(option, [*SECTIONS, *section_of()])
    kind = SECTIONS.get(str(where[0]))
    own = list(kind.model_fields) if kind else []
    if where[0] == "datasets" and len(where) > 3:
        own = list(UserPrompt.model_fields)
    elif where[:2] == ("model", "rope_scaling"):
        own = list(RopeScaling.model_fields)
    elif option in section_of():
        return f"; it belongs into the section '{section_of()[option]}'"
    return what_became_of(option) or nearest(option, own) or nearest(option, section_of())


def _hint(kind: str, got: Any) -> str:
    if kind == "bool_type" and str(got).lower() in ("yes", "no", "on", "off"):
        return "; YAML 1.2 knows true and false only"
    if kind == "bool_type" and str(got).lower() in ("true", "false"):
        return f"; write {str(got).lower()} without quotes"
    if kind.endswith("_type") and isinstance(got, str) and kind.startswith(("int", "float")):
        if _is_number(got):
            return "; write the number without quotes"
        if got.strip().endswith("%") and _is_number(got.strip()[:-1]):
            return f"; write the share as a number, {float(got.strip()[:-1]) / 100:g}"
        return ""
    if isinstance(got, list) and len(got) == 1 and not kind.startswith("list"):
        return f"; write it without brackets, {show(got[0])}"
    if kind == "list_type" and isinstance(got, str):
        return f"; write it in brackets, [{got}]"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
