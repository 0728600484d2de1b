"""What a training run is asked for: its options, where it reads and writes, what it is identified by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_core.params.adapter import Adapter
from axolotl_core.params.evaluation import Evaluation
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training


@dataclass(frozen=True)
class TrainConfig:
    """The sections of params.yaml that a training reads."""

    model: Model
    adapter: Adapter
    training: Training
    machine: Machine
    tracking: Tracking
    evaluation: Evaluation
    """For the table of predictions alone."""
    base_name: str
    """What peft opens the base model by."""


@dataclass(frozen=True)
class Run:
    """One run of a training."""

    folder: Path
    """Of its checkpoints."""
    out: Path
    """Where the artifact is written."""
    root: Path
    """What paths in params.yaml are relative to."""
    identity: dict[str, Any]
    """What the run is of, as plain JSON: {"key", "params", "inputs"}."""
    initial_adapter: Path | None = None
    """A folder with the adapter that training begins with."""
    branch: Path | None = None
    """A checkpoint of another run to resume from."""
    restart: bool = False
    """Train once more what was trained to its end."""
