"""What `axolotl plan`, `why` and `check` share: the plan of the project in the current folder, with what is printed beside it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.table import batches
from axolotl_core.batches.plan import Plan
from axolotl_core.cli.project import PARAMS
from axolotl_core.cli.remote import obtainable
from axolotl_core.errors import AxolotlError
from axolotl_core.params.load import override, sections_of
from axolotl_core.params.params import Params
from axolotl_core.report.plan import Shown
from axolotl_core.sources.files import files_of, place_of
from axolotl_core.sources.outside import name_in_key
from axolotl_core.sources.readers import Bad
from axolotl_core.stages.checks import rows_of
from axolotl_core.stages.graph import Step
from axolotl_core.stages.job import Project
from axolotl_core.stages.plan import Planned
from axolotl_core.terminal import say


def print_json(document: Any) -> None:
    """For programs: one JSON document on standard output, in ASCII, which no terminal and no locale changes."""
    say(json.dumps(document, indent=1))


def shown_with(
    project: Project, params: Params, plan: Sequence[Planned], file: Path, overrides: Sequence[str], remote: str | None = None
) -> Shown:
    """plan: of all steps; file and overrides: what params were read from; remote: the DVC remote to ask, None: the default one."""
    document, _ = sections_of(file)
    override(document, overrides)
    rows: dict[tuple[str, str], tuple[int | None, int | None]] = {}
    for planned in plan:
        if planned.step.stage.name == "fetch" and (names := [cause.name for cause in planned.because if cause.kind == "file"]):
            rows |= {(planned.step.name, name): found for name, found in _rows(project, params, planned.step, names).items()}
    lacking = any(planned.state != "up-to-date" and not planned.kept for planned in plan)
    as_dvc_has_it = not overrides and file.absolute() == project.root / PARAMS
    where = obtainable(project.root, plan, remote) if lacking and as_dvc_has_it else {}
    return Shown(document, rows, where, training(project, params, plan))


def _rows(project: Project, params: Params, step: Step, names: Sequence[str]) -> dict[str, tuple[int | None, int | None]]:
    """Of files that changed: their rows when they were fetched, and now."""
    data = params.datasets[str(step.dataset)]
    raw, old = project.artifacts / step.output, Counter[int]()
    try:
        sources = manifest.read(raw)["sources"]
        for batch in batches(raw):
            old.update({entry["values"]: entry["counts"] for entry in batch.column("file").value_counts().to_pylist()})
        place = place_of(data, project.root)
        paths = files_of(place, data).paths
    except (AxolotlError, OSError, KeyError):
        return {}
    found: dict[str, tuple[int | None, int | None]] = {}
    for i, path in enumerate(paths):
        if (name := name_in_key(i, path, place)) in names:
            try:
                new = sum(not isinstance(row, Bad) for _, row in rows_of(path, data))
            except AxolotlError:
                new = None
            found[name] = (old.get(i) if len(sources) == len(paths) else None, new)
    return found


def training(project: Project, params: Params, plan: Sequence[Planned]) -> dict[str, int]:
    """Exact steps, rows and target tokens of a training on the rows that are packed now; nothing where those would be made anew."""
    states = {planned.step.stage.name: planned.state for planned in plan}
    if "train" not in states or states.get("pack", "up-to-date") != "up-to-date":
        return {}
    try:
        facts = manifest.read(project.artifacts / "packed")["train"]
    except AxolotlError:
        return {}
    steps = Plan.of(params.training, facts["rows"])
    return {
        "steps": steps.total,
        "rows": facts["rows"],
        "tokens_per_epoch": facts["tokens"],
        "target_tokens_per_epoch": facts["trained_tokens"],
    }
