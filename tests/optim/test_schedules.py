"""Learning rates against the original's, where it had no bug, and against transformers' own schedulers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from axolotl_core.errors import ParamsError
from axolotl_core.optim.groups import set_lr_and_betas
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.optim.schedules import make_schedule, relora_scale, warmup_steps
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.training import Training

GOLDENS = [json.loads(line) for line in (Path(__file__).parent / "schedules-2023.jsonl").read_text(encoding="utf-8").splitlines()]
"""Learning rates per step of Axolotl's code of October 2023."""


def rates(total: int, learning_rate: float, adapter: Adapter | None = None, **training) -> list[float]:
    schedule = make_schedule(Training(learning_rate=learning_rate, **training), adapter or Adapter(), total)
    return [learning_rate * schedule.factor(step) for step in range(total)]


def goldens(kind: str) -> list:
    return [pytest.param(g, id=f"{kind}-{i}") for i, g in enumerate(GOLDENS) if g["type"] == kind]


@pytest.mark.parametrize("golden", goldens("cosine_quadratic_warmup"))
def test_quadratic_warmup_is_the_originals(golden: dict):
    got = rates(golden["total"], golden["lr"], lr_quadratic_warmup=True, warmup_steps=golden["warmup_steps"])
    assert got == pytest.approx(golden["lrs"], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("golden", goldens("one_cycle"))
def test_one_cycle_is_the_originals(golden: dict):
    got = rates(golden["total"], golden["lr"], lr_scheduler="one_cycle", warmup_steps=golden["warmup_steps"])
    assert got[: len(golden["lrs"])] == pytest.approx(golden["lrs"], rel=1e-9)


@pytest.mark.parametrize("golden", goldens("log_sweep"))
def test_log_sweep_is_the_originals_without_its_repeated_first_step(golden: dict):
    ends = {"log_sweep_min_lr": golden["min_lr"], "log_sweep_max_lr": golden["max_lr"]}
    got = rates(golden["num_steps"], 3e-5, lr_scheduler="log_sweep", **ends)
    assert got == pytest.approx(golden["lrs"][1 : golden["num_steps"] + 1], rel=1e-9)
    assert (got[0], got[-1]) == pytest.approx((golden["min_lr"], golden["max_lr"]))


@pytest.mark.parametrize("golden", goldens("relora"))
def test_relora_warms_up_at_the_merge_and_not_a_step_before(golden: dict):
    adapter = Adapter(relora_steps=golden["relora_steps"], relora_warmup_steps=golden["relora_warmup_steps"])
    got = rates(golden["total"], golden["lr"], adapter, warmup_steps=golden["warmup_steps"])
    assert got[1:] == pytest.approx(golden["lrs"][:-1], rel=1e-9, abs=1e-15)
    merge = golden["relora_steps"]
    assert got[merge] < got[merge - 1] / 100


def test_relora_scale():
    assert [round(relora_scale(step, 4, 2), 4) for step in range(8)] == [1, 1, 1, 1, 0.001, 0.5005, 1, 1]


NAMES = {
    "cosine": {},
    "linear": {},
    "constant": {},
    "constant_with_warmup": {},
    "cosine_with_restarts": {"num_cycles": 3},
    "cosine_with_min_lr": {"min_lr": 1e-5},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    "polynomial": {"power": 2.0, "lr_end": 1e-6},
    "inverse_sqrt": {"timescale": 20},
    "warmup_stable_decay": {"num_decay_steps": 10, "min_lr_ratio": 0.1},
}


@pytest.mark.parametrize(("name", "arguments"), NAMES.items())
def test_hugging_faces_names_are_its_schedules(name: str, arguments: dict):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1e-3)
    theirs = get_scheduler(name, optimizer, 5, 40, arguments or None)
    wanted = []
    for _ in range(40):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    warmup = {} if name == "constant" else {"warmup_steps": 5}
    assert rates(40, 1e-3, lr_scheduler=name, lr_scheduler_kwargs=arguments, **warmup) == pytest.approx(wanted)


def test_arguments_that_a_schedule_does_not_know_are_told():
    with pytest.raises(ParamsError, match=r"training.lr_scheduler_kwargs: do not fit lr_scheduler 'linear': .*num_cycles"):
        rates(10, 1e-3, lr_scheduler="linear", lr_scheduler_kwargs={"num_cycles": 2})


def test_one_cycle_moves_adams_momentum_against_the_learning_rate():
    training = Training(lr_scheduler="one_cycle", warmup_steps=4, learning_rate=1.0, lr_div_factor=10)
    schedule = make_schedule(training, Adapter(), 20)
    assert [schedule.factor(0), schedule.factor(3)] == pytest.approx([0.1, 1.0])
    assert [schedule.momentum(step) for step in (0, 3, 19)] == pytest.approx([0.95, 0.85, 0.95])
    optimizer = make_optimizer([("w", torch.nn.Parameter(torch.ones(2, 2)))], training, Adapter())
    set_lr_and_betas(optimizer, 0.5, 0.85)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (0.5, (0.85, 0.999))


@pytest.mark.parametrize(
    ("options", "total", "steps"),
    [
        ({}, 1000, 30),
        ({}, 10_000, 100),
        ({"warmup_steps": 0}, 10, 0),
        ({"warmup_ratio": 0.25}, 10, 3),
        ({"lr_scheduler": "constant"}, 99, 0),
    ],
)
def test_warmup(options: dict, total: int, steps: int):
    assert warmup_steps(Training(**options), total) == steps


def test_a_warmup_longer_than_the_run_is_its_beginning():
    assert warmup_steps(Training(warmup_steps=500), 320) == 500
    schedule = make_schedule(Training(warmup_steps=10), Adapter(), 2)
    assert [schedule.factor(step) for step in range(2)] == [0.0, 0.1]


def test_a_warmup_below_1_is_a_share():
    assert warmup_steps(Training(warmup_steps=0.1), 320) == warmup_steps(Training(warmup_ratio=0.1), 320) == 32
    assert warmup_steps(Training(warmup_steps=0), 320) == 0
