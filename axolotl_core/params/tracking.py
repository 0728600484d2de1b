"""`tracking`: what is recorded on the way. An edit re-runs nothing."""

from typing import Annotated, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section


class Tracking(Section):
    """What is recorded on the way."""

    logging_steps: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps between rows of plots/train.csv."""
    save_strategy: Literal["no", "steps", "epoch"] | None = None
    """When a checkpoint is written; unset: steps if save_steps is set, else epoch."""
    save_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between checkpoints."""
    save_total_limit: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept; the oldest go first. Two, so that a damaged one leaves one to go back to."""
    auto_resume_from_checkpoints: bool = True
    """Go on from the newest whole checkpoint of the same train key."""
    resume_from_checkpoint: Annotated[str | None, Built()] = None
    """Go on from this checkpoint."""
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
