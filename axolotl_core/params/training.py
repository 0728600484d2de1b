"""`training`: how the weights move. An edit re-runs train onward."""

from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section


class Training(Section):
    """How the weights move."""

    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows an optimizer step sees, over all processes; accumulation follows from machine.micro_batch_size."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] | None = None
    """Micro-batches a step, where batch_size is not given: batch_size is then micro_batch_size times this; unset: 1."""
    num_epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the training rows; fractions are allowed."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many optimizer steps, if that comes first."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Learning rate at its peak."""
    lr_scheduler: Annotated[str, Built("constant")] = "cosine"
    """Shape of the learning rate after warmup."""
    lr_scheduler_kwargs: Annotated[dict[str, Any], Built()] = {}
    """Arguments of the schedule."""
    lr_quadratic_warmup: Annotated[bool, Built()] = False
    """Warm up with the square of the step."""
    lr_div_factor: Annotated[float | None, Built()] = None
    """one_cycle: peak over start."""
    log_sweep_min_lr: Annotated[float | None, Built()] = None
    """log_sweep: start."""
    log_sweep_max_lr: Annotated[float | None, Built()] = None
    """log_sweep: end."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warmup; unset, with warmup_ratio unset too: 3 % of the run, 100 at most."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Warmup as a share of the run."""
    optimizer: Annotated[str, Built("adamw_torch_fused")] = "adamw_torch"
    """Which optimizer."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay (Loshchilov & Hutter 2017, arXiv 1711.05101); never on norms and biases."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment."""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 switches clipping off, as in transformers."""
    bf16: Annotated[bool | Literal["auto", "full"], Built(True, False)] = "auto"
    """Autocast to bfloat16; auto: where the accelerator has it, fp32 elsewhere."""
    fp16: Annotated[bool, Built()] = False
    """Autocast to float16 with a loss scaler."""
    group_by_length: Annotated[bool, Built()] = False
    """Batches of similar lengths, when samples are not packed."""
    evaluation_strategy: Literal["no", "steps", "epoch"] | None = None
    """When the held-out loss is taken; unset: steps if eval_steps is set, else epoch."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps between evaluations."""
    load_best_model_at_end: Annotated[bool, Built()] = False
    """Keep the checkpoint with the lowest held-out loss."""
    metric_for_best_model: Annotated[str | None, Built()] = None
    """What "best" means."""
    greater_is_better: Annotated[bool | None, Built()] = None
    """Whether more of it is better."""
    early_stopping_patience: Annotated[int | None, Built()] = None
    """Stop after so many evaluations without a better one."""
    seed: int = 42
    """Seed of the order of rows, of new weights and of dropout; 0 is a seed."""
