"""The optimizers there are, by Hugging Face's names. To add one is to add an entry.

Only data, so that params.yaml is validated without importing torch; optim/optimizers.py makes them. Adam's betas and epsilon go to
the Adam family and to Lion (betas); `adafactor` runs with the learning rate of the schedule, as transformers' Trainer does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

BETAS, ADAM = ("betas",), ("betas", "eps")


@dataclass(frozen=True)
class OptimizerSpec:
    """Where an optimizer's class is and what it is made with."""

    path: str
    """`module:class`. Its package may be missing: an extra of axolotl with the package's name installs it."""
    options: tuple[str, ...] = ()
    """Which of betas and eps it takes besides the learning rate."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sharded_by: tuple[str, ...] = ()
    """Strategies that can shard its state; with any other one each process holds all of it."""
    eight_bit: bool = False
    """Whether its state is quantised to 8 bits."""
    states: int = 2
    """Numbers of its state for a weight."""
    number_bytes: float | None = None
    """Bytes of such a number, unset: those of the weight."""

    def state_bytes(self, weight_bytes: int) -> float:
        """Of its state, for a weight of these many bytes."""
        return self.states * (1 if self.eight_bit else self.number_bytes or weight_bytes)


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "adamw_torch": OptimizerSpec("torch.optim:AdamW", ADAM, sharded_by=("fsdp", "deepspeed")),
    "adamw_torch_fused": OptimizerSpec("torch.optim:AdamW", ADAM, {"fused": True}, sharded_by=("fsdp", "deepspeed")),
    "adamw_torch_8bit": OptimizerSpec("torchao.optim:AdamW8bit", ADAM, eight_bit=True),
    "adamw_torch_4bit": OptimizerSpec("torchao.optim:AdamW4bit", ADAM, sharded_by=("fsdp",), number_bytes=0.5),
    "adamw_bnb_8bit": OptimizerSpec("bitsandbytes.optim:AdamW8bit", ADAM, eight_bit=True),
    "paged_adamw_32bit": OptimizerSpec("bitsandbytes.optim:PagedAdamW32bit", ADAM, number_bytes=4),
    "paged_adamw_8bit": OptimizerSpec("bitsandbytes.optim:PagedAdamW8bit", ADAM, eight_bit=True),
    "adafactor": OptimizerSpec("transformers.optimization:Adafactor", (), {"scale_parameter": False, "relative_step": False}, states=0),
    "adagrad": OptimizerSpec("torch.optim:Adagrad", sharded_by=("fsdp",), states=1),
    "lion_32bit": OptimizerSpec("bitsandbytes.optim:Lion32bit", BETAS, states=1, number_bytes=4),
    "lion_8bit": OptimizerSpec("bitsandbytes.optim:Lion8bit", BETAS, eight_bit=True, states=1),
    "paged_lion_32bit": OptimizerSpec("bitsandbytes.optim:PagedLion32bit", BETAS, states=1, number_bytes=4),
    "paged_lion_8bit": OptimizerSpec("bitsandbytes.optim:PagedLion8bit", BETAS, eight_bit=True, states=1),
    "sgd": OptimizerSpec("torch.optim:SGD", sharded_by=("fsdp",), states=0),
}
if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]
