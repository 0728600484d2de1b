"""Who listens to a run besides the CSV files. Their packages are imported when they are asked for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from axolotl_core.params.tracking import Tracking
from axolotl_core.training.track import Listener


def listeners_of(
    tracking: Tracking, identity: dict[str, Any], root: Path, model: Any, say: Callable[[str], None] = lambda _: None
) -> Sequence[Listener]:
    """What `tracking` asks for. identity: key and params of the run; root: the project; say: gets sentences. Raises MachineError."""
    found: list[Listener] = []
    mode = tracking.wandb_mode or os.environ.get("WANDB_MODE")
    if mode != "disabled" and (tracking.wandb_mode or tracking.wandb_project or os.environ.get("WANDB_PROJECT")):
        from axolotl_core.training.listeners.weights_and_biases import WeightsAndBiases

        found.append(WeightsAndBiases(tracking, identity["key"], identity["params"], root, model, say))
    if tracking.tensorboard:
        from axolotl_core.training.listeners.tensorboard import TensorBoard

        found.append(TensorBoard(root / "tensorboard" / identity["key"]))
    return found
