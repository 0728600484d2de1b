"""The stage table: what exists, what each stage reads and writes, and which sections of params.yaml it depends on.

    fetch@<dataset> ─→ tokenize@<dataset> ─→ pack ─→ train ─→ evaluate
    fetch-tokenizer ────↗                             ↗   └──→ merge ─→ export
    fetch-model ──────────────────────────────────────

`dvc.yaml` is generated from this table (a test holds them equal). A `revision` is the code identity of a stage:
raise it when the same inputs give other bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import StringIO
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.datasets import SOURCE, Dataset
from axolotl_core.params.model import Model

ARTIFACTS = "artifacts"
ALL = None
DATA = "data"
"""The folder that DVC watches for the user's own files."""


@dataclass(frozen=True)
class Stage:
    """One row of the table. `{}` in a path stands for the dataset; `each` stages exist per dataset."""

    name: str
    script: str
    """`module:function`, imported only when the stage runs."""
    revision: int
    sections: Mapping[str, frozenset[str] | None] = field(hash=False)
    """Section of params.yaml → which of its options the stage reads, ALL of them or some. Others stand at their defaults in what it
    is given, and are no part of its key; DVC depends on the section."""
    inputs: tuple[str, ...]
    output: str
    also: tuple[str, ...] = ()
    """Small files beside the artifact: metrics and plots."""
    each: bool = False
    outside: str | None = None
    """Name of the function of sources/outside.py that gives what is read from outside artifacts/."""


@dataclass(frozen=True)
class Step:
    """A stage of the table for one dataset, or for all of them."""

    stage: Stage
    dataset: str | None = None

    def __hash__(self) -> int:
        """Of the names alone: sets of thousands of steps are made."""
        return hash((self.stage.name, self.dataset))

    @property
    def name(self) -> str:
        return f"{self.stage.name}@{self.dataset}" if self.dataset else self.stage.name

    def path(self, template: str) -> str:
        return template.replace("{}", self.dataset or "")

    @property
    def output(self) -> str:
        return self.path(self.stage.output)

    @property
    def also(self) -> tuple[str, ...]:
        return tuple(map(self.path, self.stage.also))

    @property
    def key_file(self) -> str:
        return f"keys/{self.output}.json"


READING = frozenset(Dataset.model_fields) - SOURCE
"""Options that say what is made of a row."""
PINNED = frozenset({"base_model", "model_revision"})
"""Options that say which files of a base model there are."""
QUANTISED = frozenset({"load_in_8bit", "load_in_4bit", "gptq", "gptq_groupsize", "gptq_model_v1"})
ROWS = frozenset({"resize_token_embeddings_to_32x"})
FETCHED = PINNED | {"base_model_ignore_patterns", "model_type", "trust_remote_code", "rope_scaling"}

STAGES = (
    Stage(
        "fetch",
        "axolotl_core.stages.fetch:dataset",
        4,
        {"datasets": SOURCE - {"held_out"}},
        (),
        "raw/{}",
        each=True,
        outside="dataset",
    ),
    Stage(
        "fetch-tokenizer",
        "axolotl_core.stages.fetch:tokenizer",
        4,
        {"tokenizer": ALL, "model": PINNED},
        (),
        "tokenizer",
        outside="tokenizer",
    ),
    Stage("fetch-model", "axolotl_core.stages.fetch:model", 2, {"model": FETCHED}, (), "base", outside="model"),
    Stage(
        "tokenize",
        "axolotl_core.stages.tokenize:run",
        4,
        {"datasets": READING | {"on_bad_row"}, "prompt": ALL},
        ("raw/{}", "tokenizer"),
        "tokens/{}",
        also=("metrics/masks/{}.json", "plots/lengths/{}.csv"),
        each=True,
        outside="format",
    ),
    Stage("pack", "axolotl_core.stages.pack:run", 2, {"datasets": frozenset({"held_out"}), "packing": ALL}, ("tokens",), "packed"),
    Stage(
        "train",
        "axolotl_core.stages.train:run",
        3,
        {"model": frozenset(Model.model_fields) - FETCHED | {"base_model"}, "adapter": ALL, "training": ALL},
        ("packed", "tokens", "tokenizer", "base"),
        "adapter",
        also=("metrics/summary.json", "metrics/train.json", "metrics/held_out.json", "plots/train.csv", "plots/eval.csv"),
        outside="adapter",
    ),
    Stage(
        "evaluate",
        "axolotl_core.stages.evaluate:run",
        3,
        {"model": QUANTISED | ROWS, "evaluation": ALL},
        ("adapter", "packed", "tokens", "tokenizer", "base", "metrics/held_out.json"),
        "evaluation",
        also=("metrics/evaluate.json",),
    ),
    Stage("merge", "axolotl_core.stages.merge:run", 3, {"model": ROWS}, ("adapter", "base", "tokenizer"), "merged"),
    Stage(
        "export",
        "axolotl_core.stages.export:run",
        3,
        {"datasets": READING, "export": ALL},
        ("merged", "tokenizer", "metrics/train.json", "keys/adapter.json"),
        "export",
        outside="format",
    ),
)
GROUPS = {"fetch": ("fetch", "fetch-tokenizer", "fetch-model")}
"""`axolotl stage fetch` means all three."""


def sections_wanted() -> list[str]:
    """Sections that dvc.yaml depends on, which must be there even if they are empty."""
    return list(dict.fromkeys(section for stage in STAGES for section in stage.sections))


def dvc_yaml(datasets: Iterable[str], files: Mapping[str, Iterable[str]] = MappingProxyType({})) -> str:
    """dvc.yaml as the table says it. files: what is read beside params.yaml, by the stage's `outside`.

    Sections are depended on as a whole: DVC removes outs before it finds that a param is missing. Tokens are depended on per dataset,
    not by the folder that holds them all: another params file may have left tokens of its own there.
    """
    names = sorted(datasets)
    document = {
        "stages": {stage.name: _for_each(stage, _dvc_stage(stage, names, files)) for stage in STAGES},
        "metrics": [f"{ARTIFACTS}/{METRICS}"],
        "plots": [
            {title: {"x": "step", "y_label": title, "y": {f"{ARTIFACTS}/{file}": column for file, column in sources.items()}}}
            for title, sources in PLOTS.items()
        ],
    }
    yaml, out = YAML(), StringIO()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 10**6
    yaml.dump(document, out)
    return "# Generated from the stage table by `axolotl upgrade`; edit params.yaml, not this file.\n" + out.getvalue()


def _for_each(stage: Stage, entry: dict[str, Any]) -> dict[str, Any]:
    return {"foreach": "${datasets}", "do": entry} if stage.each else entry


def _dvc_stage(stage: Stage, datasets: Sequence[str], files: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """A stage as DVC has it; `${key}` is the dataset's name. Without its empty lists."""
    step = Step(stage, "${key}" if stage.each else None)
    deps = [f"{ARTIFACTS}/{path}" for path in expanded(map(step.path, stage.inputs), datasets)] or ([DATA] if stage.each else [])
    also = [f"{ARTIFACTS}/{path}" for path in step.also]
    plots = [path for path in also if stage.each and path.startswith(f"{ARTIFACTS}/plots/")]  # the others are in PLOTS
    entry = {
        "cmd": f"axolotl stage {step.name} --only --revision {stage.revision}",
        "deps": deps + sorted(files.get(stage.outside or "", ())),
        "params": [f"{name}.{step.dataset}" if name == "datasets" and stage.each else name for name in stage.sections],
        "outs": [f"{ARTIFACTS}/{path}" for path in (step.output, step.key_file)] + [path for path in also if path not in plots],
        "plots": [{path: {"x": "tokens", "y": "rows"}} for path in plots],
    }
    return {name: value for name, value in entry.items() if value}


def watched(dvc_yaml: str, stage: str, path: str) -> bool:
    """Whether a dvc.yaml makes a stage of the table depend on a path."""
    stages = YAML(typ="safe", pure=True).load(dvc_yaml)["stages"]
    return path in stages[stage].get("do", stages[stage]).get("deps", ())


def expanded(inputs: Iterable[str], datasets: Sequence[str]) -> list[str]:
    """`tokens` is the tokens of every dataset."""
    return [path for name in inputs for path in ([f"tokens/{data}" for data in datasets] if name == "tokens" else [name])]


METRICS = "metrics/summary.json"
"""What `dvc metrics show` and `dvc exp show` compare; the other files of metrics/ are for reading."""
PLOTS = {
    "loss": {"plots/train.csv": "loss", "plots/eval.csv": "eval_loss"},
    "learning_rate": {"plots/train.csv": "learning_rate"},
    "grad_norm": {"plots/train.csv": "grad_norm"},
    "tokens_per_s": {"plots/train.csv": "tokens_per_s"},
    "memory_gib": {"plots/train.csv": "memory_gib"},
}
"""Plot → {file: column}. Two files for the losses: DVC would draw an empty cell as 0."""


def steps(datasets: Iterable[str]) -> list[Step]:
    """All steps of a project in an order in which they can run."""
    names = sorted(datasets)
    return [step for stage in STAGES for step in ([Step(stage, n) for n in names] if stage.each else [Step(stage)])]


def chosen(name: str, datasets: Iterable[str]) -> list[Step]:
    """The steps that `axolotl stage NAME` means: `pack`, `tokenize` (all datasets), `tokenize@faq`, `fetch` (all three).

    Raises ParamsError with the nearest name.
    """
    every = steps(datasets)
    group = GROUPS.get(name, (name,))
    found = [step for step in every if step.name == name or step.stage.name in group]
    if not found:
        known = [step.name for step in every] + [stage.name for stage in STAGES]
        raise ParamsError(f"no stage is called '{name}'{nearest(name, known)}; there are {', '.join(dict.fromkeys(known))}")
    return found


def upstream(targets: Sequence[Step], datasets: Iterable[str]) -> list[Step]:
    """The targets and all that they read, in an order in which they can run."""
    every = steps(datasets)
    wanted = set(targets)
    for step in reversed(every):
        if step in wanted:
            wanted |= set(makers(step, datasets))
    return [step for step in every if step in wanted]


def makers(step: Step, datasets: Iterable[str]) -> list[Step]:
    """The steps of a project whose artifacts a step reads, in their order. datasets: its names."""
    made = _made_by(tuple(sorted(datasets)))
    found = {number: maker for path in map(step.path, step.stage.inputs) for number, maker in made.get(path, ()) if maker != step}
    return [found[number] for number in sorted(found)]


@lru_cache(4)
def _made_by(datasets: tuple[str, ...]) -> dict[str, list[tuple[int, Step]]]:
    """Path → the steps that make it, or files below it, with their numbers."""
    found: dict[str, list[tuple[int, Step]]] = {}
    for number, step in enumerate(steps(datasets)):
        for file in (step.output, step.key_file, *step.also):
            parts = file.split("/")
            for i in range(1, len(parts) + 1):
                found.setdefault("/".join(parts[:i]), []).append((number, step))
    return found
