"""Weights & Biases: the rows of the log, predictions of validation prompts, and the model where it is asked for."""

import contextlib
import netrc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axolotl_core.errors import MachineError
from axolotl_core.params.tracking import Tracking

TITLE = "Eval - Predictions vs Ground Truth"
"""Name of the table of predictions, as Axolotl's."""


OFFLINE = "tracking: this machine is not logged in to W&B (`wandb login`): the run is kept in wandb/, `wandb sync` uploads it"


def logged_in() -> bool:
    """Whether this machine has a key of W&B's, as `wandb login` leaves one; nobody is asked whether it is right."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    if os.environ.get("WANDB_API_KEY"):
        return True
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False


class WeightsAndBiases:
    """One run of the client. A resumed training goes on in the run of the same id, which is the train key unless set."""

    def __init__(
        self, tracking: Tracking, key: str, config: dict[str, Any], root: Path, model: Any, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """say: gets a sentence for the user. Raises MachineError when the package is missing or the service cannot be had."""
        try:
            import wandb
            from wandb.errors import Error
        except ImportError as error:
            raise MachineError(f"tracking: wandb is missing ({error}); pip install 'axolotl[wandb]', or set wandb_mode: disabled") from None
        self.wandb, self.log_model, self.key = wandb, tracking.wandb_log_model, key
        mode = tracking.wandb_mode or os.environ.get("WANDB_MODE")  # the client reads its environment once a process
        if mode is None and not logged_in():
            mode = "offline"
            say(OFFLINE)
        try:
            self.run = wandb.init(
                project=tracking.wandb_project or os.environ.get("WANDB_PROJECT"),
                entity=tracking.wandb_entity or os.environ.get("WANDB_ENTITY"),
                mode=mode,
                name=tracking.wandb_name,
                id=tracking.wandb_run_id or key,
                resume="allow",
                dir=str(root),
                config=config,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except Error as error:
            raise MachineError(f"tracking: wandb cannot start: {' '.join(str(error).split())}; set wandb_mode: offline") from None
        if tracking.wandb_watch:
            self.run.watch(model, log=tracking.wandb_watch, log_freq=1)

    def log(self, row: dict[str, Any]) -> None:
        """train/… and eval/… over the step."""
        kind = "eval" if "eval_loss" in row else "train"
        named = {f"{kind}/{name.removeprefix('eval_')}": value for name, value in row.items() if name != "step"}
        self.run.log(named, step=row["step"])

    def table(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Validation prompts with what the data and the model go on with."""
        columns = list(rows[0])
        table = self.wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])
        self.run.log({TITLE: table}, step=step)

    def saved(self, step: int, folder: Path) -> None:
        """A checkpoint was written."""
        if self.log_model == "checkpoint":
            self._upload(folder, [f"step-{step}"])

    def ended(self, out: Path) -> None:
        """The artifact was written and read back."""
        if self.log_model is not None:
            self._upload(out, ["final"])

    def _upload(self, folder: Path, aliases: list[str]) -> None:
        artifact = self.wandb.Artifact(f"model-{self.run.id}", type="model")
        for file in sorted(folder.iterdir()):
            artifact.add_file(str(file))
        self.run.log_artifact(artifact, aliases=aliases)

    def close(self) -> None:
        self.run.finish()
