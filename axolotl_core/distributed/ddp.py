"""Distributed data parallel: each process has the model, gradients are averaged in the last micro-batch of a step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.utils import DistributedDataParallelKwargs

from axolotl_core.distributed.strategy import Strategy
from axolotl_core.params.machine import Machine


class DDP(Strategy):
    """torch's DistributedDataParallel."""

    name = "ddp"

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Gradients are exchanged in the last one only."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        if last:
            yield
            return
        with self.accelerator.no_sync(self.objective):
            yield


def settings(machine: Machine) -> DistributedDataParallelKwargs:
    """What the machine section says of DDP."""
    given: dict[str, Any] = {"find_unused_parameters": False, "gradient_as_bucket_view": True}
    if machine.ddp_bucket_cap_mb is not None:
        given["bucket_cap_mb"] = machine.ddp_bucket_cap_mb
    if machine.ddp_broadcast_buffers is not None:
        given["broadcast_buffers"] = machine.ddp_broadcast_buffers
    return DistributedDataParallelKwargs(**given)
