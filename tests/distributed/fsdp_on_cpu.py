"""`axolotl_core.stages.train` with FSDP on a CPU: accelerate has it for accelerators only, so its private state is bent here, in the tests.

torchrun --nproc-per-node 2 -m tests.distributed.fsdp_on_cpu --params params.yaml
"""

import importlib
import os
import sys
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

plain = AcceleratorState.__init__


def bent(self: AcceleratorState, *arguments: Any, fsdp_plugin: Any = None, **settings: Any) -> None:
    plain(self, *arguments, fsdp_plugin=fsdp_plugin, **settings)
    if fsdp_plugin is not None:
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["device"] = torch.device("cpu")  # FSDP 1 wants it without an index
        self.device = torch.device("cpu")
        os.environ["ACCELERATE_USE_FSDP"] = "true"


AcceleratorState.__init__ = bent

if __name__ == "__main__":
    importlib.import_module("axolotl_core.cli.main").main(["stage", "train", "--only", *sys.argv[1:]])
