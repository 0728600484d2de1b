"""`tracking`: what is recorded on the way. An edit re-runs nothing."""

from typing import Annotated, Literal

from pydantic import Field

from axolotl_core.params.conflict import when_to
from axolotl_core.params.section import Section, Supported
from axolotl_core.params.training import Steps


class Tracking(Section):
    """What is recorded on the way."""

    logging_steps: Steps = 1
    """Optimizer steps between rows of plots/train.csv; below 1: a share of the run."""
    save_strategy: Literal["no", "steps", "epoch"] | None = None
    """When a checkpoint is written; unset: steps if save_steps is set, else epoch."""
    save_steps: Steps | None = None
    """Optimizer steps between checkpoints; below 1: a share of the run."""
    saves_per_epoch: Annotated[int, Field(ge=0)] | None = None
    """Checkpoints an epoch, in the place of save_steps; 0: none but the last."""
    save_total_limit: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept; the oldest go first. Two, so that a damaged one leaves one to go back to."""
    auto_resume_from_checkpoints: bool = True
    """Resume from the newest complete checkpoint of the same train key."""
    resume_from_checkpoint: str | None = None
    """Resume from this checkpoint of the same run, `.axolotl/runs/…/step-100`; that of another run is refused."""
    wandb_mode: Literal["online", "offline", "disabled"] | None = None
    """Weights & Biases; unset: as WANDB_MODE says, else online if there is a project and this machine is logged in, offline if it is
    not. Offline runs lie in wandb/, for `wandb sync`."""
    wandb_project: str | None = None
    """Its project; unset: WANDB_PROJECT."""
    wandb_entity: str | None = None
    """Its team or user; unset: WANDB_ENTITY."""
    wandb_watch: Literal["gradients", "parameters", "all"] | None = None
    """Histograms of these, each step."""
    wandb_name: str | None = None
    """The run's name in its pages; unset: W&B makes one up."""
    wandb_run_id: str | None = None
    """Its run; unset: the train key, so that a resumed training continues in the same run."""
    wandb_log_model: Literal["checkpoint", "end"] | None = None
    """Upload each checkpoint and the result, or the result alone."""
    tensorboard: bool = False
    """TensorBoard's event files in tensorboard/."""
    debug: Annotated[bool, Supported()] = False
    """Print rows token by token."""


CONFLICTS = when_to("save_strategy", "save_steps", "saves_per_epoch")
