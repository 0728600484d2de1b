"""TensorBoard: the rows of the log as scalars, in tensorboard/<train key>."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from axolotl_core.errors import MachineError


class TensorBoard:
    """Writes event files."""

    def __init__(self, folder: Path) -> None:
        """Raises MachineError when the package is missing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MachineError(f"tracking.tensorboard: the package is missing ({error}); pip install 'axolotl[tensorboard]'") from None
        self.writer = SummaryWriter(str(folder))

    def log(self, row: dict[str, Any]) -> None:
        kind = "eval" if "eval_loss" in row else "train"
        for name, value in row.items():
            if name != "step" and value is not None:
                self.writer.add_scalar(f"{kind}/{name.removeprefix('eval_')}", value, row["step"])

    def table(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            text = "\n\n".join(f"**{name}**\n\n{value}" for name, value in row.items())
            self.writer.add_text(f"predictions/{row['id']}", text, step)

    def saved(self, step: int, folder: Path) -> None:
        """Nothing is uploaded."""

    def ended(self, out: Path) -> None:
        """Nothing is uploaded."""

    def close(self) -> None:
        self.writer.close()
