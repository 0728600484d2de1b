"""`tracking`: what is recorded on the way. An edit re-runs nothing."""

from typing import Annotated, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section
from axolotl_core.params.training import Steps


class Tracking(Section):
    """What is recorded on the way."""

    logging_steps: Steps = 1
    """Optimizer steps between rows of plots/train.csv; below 1: a share of the run."""
    save_strategy: Literal["no", "steps", "epoch"] | None = None
    """When a checkpoint is written; unset: steps if save_steps is set, else epoch."""
    save_steps: Steps | None = None
    """Optimizer steps between checkpoints; below 1: a share of the run."""
    save_total_limit: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept; the oldest go first. Two, so that a damaged one leaves one to go back to."""
    auto_resume_from_checkpoints: bool = True
    """Go on from the newest whole checkpoint of the same train key."""
    resume_from_checkpoint: str | None = None
    """Go on from this checkpoint of the same run, `.axolotl/runs/…/step-100`; that of another run is refused."""
    wandb_mode: Annotated[Literal["online", "offline", "disabled"] | None, Built("disabled")] = None
    """Weights & Biases."""
    wandb_project: Annotated[str | None, Built("")] = None
    """Its project."""
    wandb_entity: Annotated[str | None, Built("")] = None
    """Its team or user."""
    wandb_watch: Annotated[str | None, Built("")] = None
    """What it watches."""
    wandb_run_id: Annotated[str | None, Built("")] = None
    """Its run."""
    wandb_log_model: Annotated[str | None, Built("")] = None
    """Which models it stores."""
    debug: Annotated[bool, Built()] = False
    """Print rows token by token."""
