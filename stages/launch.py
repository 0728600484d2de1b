"""train in several processes: under torchrun, as `python -m axolotl_core.stages.train` with the params as they are now."""

import json
import os
import signal
import sys
import uuid
from pathlib import Path

from axolotl_core.artifacts.scratch import building
from axolotl_core.errors import Interrupted, MachineError, TrainError
from axolotl_core.params.params import Params
from axolotl_core.stages.job import Project

GRACE_S = 600
"""What processes that were asked to end have for their step and its checkpoint, in seconds."""


def processes_of(params: Params) -> int | None:
    """How many processes to start: those of params.yaml, or one a GPU; None where this one will do."""
    machine = params.machine
    count = machine.num_processes
    if count is None:
        import torch

        count = torch.cuda.device_count() if machine.device in ("auto", "cuda") else 1
    return count if count > 1 or (count == 1 and (machine.fsdp or machine.deepspeed)) else None


def launch(project: Project, params: Params, count: int, *, force: bool, branch: Path | None) -> None:
    """Run the train stage in `count` processes and wait for them. Raises AxolotlError with the status they ended with."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    sections = params.model_dump(mode="json", exclude_defaults=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    patience = {"shutdown_timeout": GRACE_S} if "shutdown_timeout" in LaunchConfig.__dataclass_fields__ else {}  # torch 2.11: 30 s
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        **patience,
    )
    try:
        with building(project.scratch / "launch") as folder:
            file = folder / "params.yaml"
            file.write_text(json.dumps(sections, ensure_ascii=False), encoding="utf-8")
            arguments = ["-P", "-m", "axolotl_core.stages.train", "--params", str(file)]
            arguments += ["--force"] * force + ["--branch-from", str(branch)] * (branch is not None)
            elastic_launch(config, sys.executable)(*arguments)
    except SignalException as error:
        raise Interrupted(
            f"training was stopped ({signal.Signals(error.sigval).name}); the same command resumes from its newest checkpoint"
        ) from None
    except ChildFailedError as error:
        killed = [(rank, failure) for rank, failure in error.failures.items() if failure.exitcode < 0]
        if killed:
            rank, failure = min(killed, key=lambda found: found[1].timestamp)
            raise MachineError(
                f"rank {rank} of {count} was killed by {failure.signal_name()}, perhaps for want of memory; "
                "nothing is lost, the same command resumes from the newest checkpoint"
            ) from None
        rank, failure = error.get_first_failure()
        ended = TrainError(f"rank {rank} of {count} processes ended with status {failure.exitcode}, as said above")
        ended.exit_status = failure.exitcode
        raise ended from None
