"""The loggers of a run besides the CSV files. Their packages are imported when they are requested."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from axolotl_core.params.tracking import Tracking
from axolotl_core.tracking.logger import Logger


def make_loggers(
    tracking: Tracking, identity: dict[str, Any], root: Path, model: Any, say: Callable[[str], None] = lambda _: None
) -> Sequence[Logger]:
    """What `tracking` requests. identity: key and params of the run; root: the project; say: gets sentences. Raises MachineError."""
    found: list[Logger] = []
    mode = tracking.wandb_mode or os.environ.get("WANDB_MODE")
    if mode != "disabled" and (tracking.wandb_mode or tracking.wandb_project or os.environ.get("WANDB_PROJECT")):
        from axolotl_core.tracking.wandb import WeightsAndBiases

        found.append(WeightsAndBiases(tracking, identity["key"], identity["params"], root, model, say))
    if tracking.tensorboard:
        from axolotl_core.tracking.tensorboard import TensorBoard

        found.append(TensorBoard(root / "tensorboard" / identity["key"]))
    return found
