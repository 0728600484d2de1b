"""`training`: how the weights move. An edit re-runs at most train onward."""

from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core.params.conflict import Conflict, when_to
from axolotl_core.params.optimizers import OptimizerName
from axolotl_core.params.section import Section

Steps = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]
"""A number of steps, or a share of the run."""

Schedules = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
    "one_cycle",
    "log_sweep",
]


class Training(Section):
    """Optimizer, schedule, batch size, precision."""

    batch_size: Annotated[int, Field(ge=1)] = 8
    """Rows an optimizer step sees, over all processes; gradient accumulation follows from machine.micro_batch_size."""
    num_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training rows; fractions are allowed."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many optimizer steps, if that comes first."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Learning rate at its peak."""
    lr_scheduler: Schedules = "cosine"
    """Shape of the learning rate after warmup: a name of Hugging Face's, `one_cycle` or `log_sweep`."""
    lr_scheduler_kwargs: dict[str, Any] = {}
    """Arguments of the schedule, named as in transformers: num_cycles, power, min_lr, num_decay_steps, …; for one_cycle
    final_div_factor, cycle_momentum, base_momentum, max_momentum."""
    lr_quadratic_warmup: bool = False
    """cosine: warm up with the square of the step."""
    lr_div_factor: Annotated[float, Field(gt=0)] | None = None
    """one_cycle: peak over start; unset: 6."""
    log_sweep_min_lr: Annotated[float, Field(gt=0)] | None = None
    """log_sweep: learning rate of the first step."""
    log_sweep_max_lr: Annotated[float, Field(gt=0)] | None = None
    """log_sweep: learning rate of the last step; learning_rate is ignored."""
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] | None = None
    """Steps of linear warmup, or below 1 a share of the run; unset, with warmup_ratio unset too: 3 % of the run, 100 at most.
    `constant` has none. A run that is shorter ends while it warms up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Warmup as a share of the run."""
    optimizer: OptimizerName = "adamw_torch_fused"
    """Which optimizer. adamw_torch_fused updates in one pass over weights and state, with the rounding of its own that makes it another
    entry than adamw_torch. adamw_torch_8bit and _4bit are torchao's, where it is installed; other 8-bit, paged and Lion ones are those of
    bitsandbytes."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay, decoupled where the optimizer is (Loshchilov & Hutter 2017, arXiv 1711.05101); not on norms and biases."""
    decay_norms_and_biases: bool = False
    """Weight decay on norms and biases too."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off, as in transformers."""
    bf16: bool | Literal["auto", "full"] = "auto"
    """Autocast to bfloat16 with fp32 master weights; auto: where the accelerator has it, fp32 elsewhere; full: bfloat16 alone."""
    fp16: bool = False
    """Autocast to float16 with fp32 master weights and a loss scaler."""
    group_by_length: bool = False
    """Batches of similar lengths, when samples are not packed."""
    neftune_noise_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings while training (Jain et al. 2023, arXiv 2310.05914), say 5."""
    evaluation_strategy: Literal["no", "steps", "epoch"] | None = None
    """When the validation loss is taken; unset: steps if eval_steps is set, else epoch."""
    eval_steps: Steps | None = None
    """Optimizer steps between evaluations; below 1: a share of the run."""
    evals_per_epoch: Annotated[int, Field(ge=1)] | None = None
    """Evaluations an epoch, in the place of eval_steps."""
    load_best_model_at_end: bool | None = None
    """End with the weights of the best evaluation; unset: with early_stopping_patience."""
    metric_for_best_model: Literal["loss", "perplexity", "accuracy", "eval_loss", "eval_perplexity", "eval_accuracy"] | None = None
    """What "best" means; unset: the validation loss."""
    greater_is_better: bool | None = None
    """Whether more of it is better; unset: for accuracy only."""
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many evaluations that are no better than the best before them."""
    loss_watchdog_threshold: Annotated[float | int, Field(gt=0)] | None = None
    """End the run with an error when the training loss stays above this, in nats; checkpoints written so far are kept."""
    loss_watchdog_patience: Annotated[int, Field(ge=1)] = 3
    """For so many steps in a row."""
    unfrozen_parameters: list[str] = []
    """Without an adapter: train only parameters whose name one of these regular expressions matches from its beginning, as
    `model.layers.2[0-9]+` does; empty: all of them."""
    seed: int = 42
    """Seed of the order of rows, of new weights and of dropout; 0 is a seed."""

    def without_effect(self) -> frozenset[str]:
        """The watchdog ends a run or does not; evaluations choose nothing unless the best weights or early stopping are requested."""
        watchdog = frozenset({"loss_watchdog_threshold", "loss_watchdog_patience"})
        chooses = frozenset({"evaluation_strategy", "eval_steps", "evals_per_epoch", "metric_for_best_model", "greater_is_better"})
        return watchdog if requires_validation(self) else watchdog | chooses


def requires_validation(training: Training) -> str | None:
    """The option that does nothing without validation rows, if one is set."""
    return next((option for option in ("early_stopping_patience", "load_best_model_at_end") if getattr(training, option)), None)


SCHEDULE_OPTIONS = {
    "lr_quadratic_warmup": "cosine",
    "lr_div_factor": "one_cycle",
    "log_sweep_min_lr": "log_sweep",
    "log_sweep_max_lr": "log_sweep",
}
"""Options of one schedule → which one."""
UNWARMED = ("constant", "log_sweep")
"""Schedules that have no warmup."""


def _warmup_for_nothing(training: Training) -> dict[str, Any]:
    options = [option for option in ("warmup_steps", "warmup_ratio") if getattr(training, option)]
    return {options[0]: None} if options and training.lr_scheduler in UNWARMED else {}


CONFLICTS = (
    Conflict(
        "warmup_ratio",
        lambda t: t.warmup_steps is not None and t.warmup_ratio is not None,
        "warmup_ratio and warmup_steps are both set; remove one",
    ),
    Conflict(
        "{option}",
        _warmup_for_nothing,
        "{option} does nothing with lr_scheduler '{lr_scheduler}'; use constant_with_warmup, or remove it",
    ),
    Conflict(
        "lr_scheduler",
        lambda t: t.lr_scheduler == "log_sweep" and not (t.log_sweep_min_lr and t.log_sweep_max_lr),
        "lr_scheduler is 'log_sweep', which requires log_sweep_min_lr and log_sweep_max_lr; set them",
    ),
    Conflict(
        "{option}",
        lambda t: {option: kind for option, kind in SCHEDULE_OPTIONS.items() if getattr(t, option) and t.lr_scheduler != kind},
        "{option} does nothing with lr_scheduler '{lr_scheduler}'; it is for {value}",
    ),
    Conflict(
        "lr_scheduler_kwargs.{option}",
        lambda t: {k: v for k, v in t.lr_scheduler_kwargs.items() if isinstance(v, str) or (isinstance(v, list) and len(v) == 1)},
        "lr_scheduler_kwargs: {option} is {value!r}, wanted a number, without quotes or brackets",
    ),
    Conflict(
        "evaluation_strategy",
        lambda t: t.evaluation_strategy == "no" and requires_validation(t) is not None,
        "evaluation_strategy 'no' leaves nothing to choose the best of; set eval_steps",
    ),
    *when_to("evaluation_strategy", "eval_steps", "evals_per_epoch"),
)
