"""One loss curve, however a step's rows are cut into passes and processes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.distributed import jobs
from tests.distributed.test_sharding import small
from tests.distributed.workers import Workers

STRATEGIES = {
    "ddp": {},
    "fsdp": {"fsdp": ["full_shard"]},
    "zero1": {"deepspeed": "zero1"},
    "zero2": {"deepspeed": "zero2"},
    "zero3": {"deepspeed": "zero3"},
}
FARTHEST, DRIFT = 2e-5, 5e-6
"""Of the loss: at any step, and on average over all steps, with its sign."""


@pytest.fixture(scope="module", params=[2, 4])
def group(request: pytest.FixtureRequest) -> Iterator[Workers]:
    workers = Workers(request.param)
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bool, list[float]]]:
    """(model, losses of one process by whether rows are packed)"""
    folder = small(tmp_path_factory.mktemp("model"))
    return folder, {packed: jobs.curve(folder, {}, packed, recomputes=False) for packed in (True, False)}


def same(found: list[float], wanted: list[float]) -> None:
    relative = np.array(found) / np.array(wanted) - 1
    assert np.abs(relative).max() < FARTHEST
    assert abs(relative.mean()) < DRIFT


@pytest.mark.parametrize("packed", [True, False])
def test_computing_layers_again_changes_no_loss(straight: tuple, packed: bool):
    folder, wanted = straight
    assert wanted[packed][-1] < wanted[packed][0] - 0.05, "it learns"
    same(jobs.curve(folder, {}, packed, recomputes=True), wanted[packed])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("recomputes", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_have_the_losses_of_one(group: Workers, straight: tuple, strategy: str, packed: bool, recomputes: bool):
    folder, wanted = straight
    for found in group.run(jobs.curve, folder, STRATEGIES[strategy], packed, recomputes):
        same(found, wanted[packed])


def test_a_gradient_that_is_one_percent_too_long_is_found(straight: tuple, monkeypatch: pytest.MonkeyPatch):
    folder, wanted = straight
    step = jobs.train_step

    def longer(strategy, *arguments, **settings):
        for group in strategy.optimizer.param_groups:
            group["lr"] = 0.202
        return step(strategy, *arguments, **settings)

    monkeypatch.setattr(jobs, "train_step", longer)
    with pytest.raises(AssertionError):
        same(jobs.curve(folder, {}, True, recomputes=False), wanted[True])
