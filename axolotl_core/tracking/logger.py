"""What a run is logged to besides the CSV files: the protocol that Weights & Biases and TensorBoard follow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol


class Logger(Protocol):
    """Where the rows of the log go besides."""

    def log(self, row: dict[str, Any]) -> None: ...

    def table(self, step: int, rows: Sequence[dict[str, Any]]) -> None: ...

    def saved(self, step: int, folder: Path) -> None: ...

    def ended(self, out: Path) -> None: ...

    def close(self) -> None: ...
