"""axolotl check"""

import json
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import click

from axolotl_core.cli.planned import print_json, shown_with
from axolotl_core.cli.project import graph_of, open_project, params_options
from axolotl_core.errors import AxolotlError, MachineError, ModelError, ParamsError
from axolotl_core.models.packing import packing_support
from axolotl_core.params.document import read
from axolotl_core.params.fallbacks import settle
from axolotl_core.params.flat.translate import is_flat
from axolotl_core.params.load import sections_of
from axolotl_core.params.params import Params
from axolotl_core.params.sharding import deepspeed_of
from axolotl_core.report.plan import as_json
from axolotl_core.sources.files import files_of, fits, place_of
from axolotl_core.sources.outside import adapter
from axolotl_core.sources.place import resolve
from axolotl_core.stages import checks
from axolotl_core.stages.fetch import unwatched
from axolotl_core.stages.graph import sections_wanted
from axolotl_core.stages.job import Project
from axolotl_core.stages.plan import Planned
from axolotl_core.stages.survey import Survey
from axolotl_core.terminal import say


@click.command("check")
@params_options
@click.option("--json", "as_document", is_flag=True, help="One JSON document, for programs.")
def command(params: Path, overrides: tuple[str, ...], as_document: bool) -> None:
    """Check params.yaml, its data and its base model, and say what a run would do.

    Options and their values, impossible pairs, formats and the first rows of each dataset, whether files are there, modules and
    positions of a base model that is here, disk space, and whether dvc.yaml fits. It says what will be taken in the place of a
    preference that this machine does not meet.
    """
    found = Checked()
    try:
        project, config = open_project(params, overrides)
        look(found, project, config, params)
    except ParamsError as error:
        found.problems += str(error).splitlines()
    if as_document:
        plan = as_json(found.plan, shown_with(project, config, found.plan, params, overrides)) if found.plan else {"stages": []}
        print_json({"ok": not found.problems, "problems": found.problems, "notes": found.notes, "machine": found.machine, **plan})
        sys.exit(ParamsError.exit_status if found.problems else 0)
    if found.problems:
        raise ParamsError("\n".join(found.problems))
    for note in found.notes:
        say(f"  {note}")
    names = ", ".join(f"{name} ({data.type if isinstance(data.type, str) else 'own prompt'})" for name, data in config.datasets.items())
    say(f"{params}: no problems found: {config.model.base_model}, {config.adapter.adapter or 'all weights'}, {names}")
    if runs := [planned.step.name for planned in found.plan if planned.state == "run" and not planned.kept]:
        say(f"  would run: {', '.join(runs)} (`axolotl why` says why)")
    for sentence in found.machine:
        say(f"  this machine: {sentence}")


@dataclass
class Checked:
    """What was found: problems, notes and what this machine takes, a sentence each, and the plan where nothing is wrong."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: list[str] = field(default_factory=list)
    plan: list[Planned] = field(default_factory=list)


def look(found: Checked, project: Project, params: Params, file: Path) -> None:
    """Fill in what is found. Raises ParamsError for a file that cannot be read."""
    found.problems = [*places(project, params, file), *packing(project, params, file), *dvc(project, params, file)]
    if not found.problems:  # what follows opens the files
        document, _ = sections_of(file)
        wrong = [*checks.rows(project, params), *checks.validation(project, params), *checks.model(project, params)]
        found.problems = [f"{document.place(tuple(option.split('.')))}: {option}: {sentence}" for option, sentence in wrong]
        found.problems += [f"{file}: {sentence}" for sentence in checks.disk(project, params)]
    try:
        settled, notes = settle(params)
        unmet, found.machine = checks.attention(project, settled)
        found.notes = [*notes, *unmet, *checks.login(params)]
    except (ParamsError, MachineError, ModelError) as error:
        found.problems.append(f"{file}: {error}")
    if not found.problems:
        found.plan = Survey(project, params).plan()


def places(project: Project, params: Params, file: Path) -> list[str]:
    """Data and models that are not where they should be."""
    problems = []
    for name, data in params.datasets.items():
        try:
            place = place_of(data, project.root)
            fits(place, name, data)
            if place.kind != "hub":
                files_of(place, data)
        except AxolotlError as error:
            problems.append(f"{file}: datasets.{name}.path: {error}")
    for option, text in (("model.base_model", params.model.base_model), ("tokenizer.tokenizer_config", params.tokenizer.tokenizer_config)):
        try:
            if text:
                resolve(text, project.root)
        except AxolotlError as error:
            problems.append(f"{file}: {option}: {error}")
    try:
        deepspeed_of(params.machine, project.root)
        adapter(params, None, project.root)
    except ParamsError as error:
        problems.append(f"{file}: {error}")
    return problems


def packing(project: Project, params: Params, file: Path) -> list[str]:
    """Packing with a family that cannot be packed, as far as the base model is known already."""
    base = checks.fetched_base(project)
    if not params.packing.sample_packing or base is None:
        return []
    packs = packing_support(SimpleNamespace(**json.loads((base / "config.json").read_text(encoding="utf-8-sig"))))
    return [] if packs.method else [f"{file}: packing.sample_packing: {packs.reason}; set it to false"]


def dvc(project: Project, params: Params, file: Path) -> list[str]:
    """What `dvc repro` would stumble over."""
    graph = project.root / "dvc.yaml"
    if not graph.is_file():
        return []
    problems = []
    if graph.read_text(encoding="utf-8") != graph_of(params, project.root):
        problems.append("dvc.yaml: does not match params.yaml and this version of axolotl; run `axolotl upgrade`")
    for name, data in params.datasets.items():
        with suppress(AxolotlError):  # `places` says what is not there
            place = place_of(data, project.root)
            if place.kind != "hub" and (problem := unwatched(files_of(place, data), name, data.path, project.root)):
                problems.append(f"{file}: {problem}")
    values = read(file).values
    if isinstance(values.get("datasets"), list) and not is_flat(values):
        problems.append(f"{file}: datasets is a list, and DVC needs names; `axolotl run {file}` writes them")
    if is_flat(values):
        problems.append(
            f"{file}: is a flat Axolotl YAML, and DVC needs sections; `axolotl import {file} --out params.yaml --force` writes them"
        )
    else:
        missing = [section for section in sections_wanted() if section not in values]
        problems += [f"{file}: has no section '{s}', which dvc.yaml depends on; add `{s}: {{}}`" for s in missing]
    return problems
