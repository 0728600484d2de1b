"""A checkpoint of any strategy, read by any other with any number of processes."""

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from axolotl_core.checkpoints.format import damaged
from axolotl_core.checkpoints.store import read
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.training import Training
from tests.distributed import jobs
from tests.distributed.test_sharding import small
from tests.distributed.workers import Workers

KINDS: dict[str, tuple[int, dict]] = {
    "single": (1, {}),
    "ddp": (2, {}),
    "fsdp": (2, {"fsdp": ["full_shard", "auto_wrap"]}),
    "fsdp of four": (4, {"fsdp": ["shard_grad_op", "auto_wrap", "offload"]}),
    "zero1": (2, {"deepspeed": "zero1"}),
    "zero2": (2, {"deepspeed": "zero2"}),
    "zero3": (2, {"deepspeed": "zero3"}),
    "zero3 of four": (4, {"deepspeed": "zero3"}),
}
METHODS = {"full": Adapter(), "lora": jobs.LORA.model_copy(update={"lora_r": 3})}  # fewer rows than processes
PRECISIONS = {"fp32": Training(), "bf16": Training(bf16=True), "bf16 full": Training(bf16="full")}


@pytest.fixture(scope="module")
def workers() -> Iterator[Callable[[int], Workers]]:
    """So many, kept for the next test."""
    groups: dict[int, Workers] = {}

    def of(count: int) -> Workers:
        if count not in groups:
            groups[count] = Workers(count)
        return groups[count]

    yield of
    for group in groups.values():
        group.close()


@pytest.fixture(scope="module")
def run_as(workers: Callable) -> Callable:
    def run(kind: str, folder: Path, *rest):
        count, machine = KINDS[kind]
        if count == 1:
            return jobs.resumed(folder, machine, *rest)
        return workers(count).run(jobs.resumed, folder, machine, *rest)[0]

    return run


@pytest.fixture(scope="module")
def straight(run_as: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """(model, folder of the run, losses, weights) of four steps without a stop, with a checkpoint after the second."""
    model = small(tmp_path_factory.mktemp("model"), vocab_size=509, intermediate_size=97)  # rows that no number of processes divides

    @cache
    def made(kind: str, method: str, precision: str):
        run = tmp_path_factory.mktemp("run")
        job = (METHODS[method], PRECISIONS[precision], run)
        first, _ = run_as(kind, model, *job, 0, 2)
        shutil.copytree(run / "step-2", run / "kept")
        losses, weights = run_as(kind, model, *job, 0, 4)
        assert losses[:2] == first
        return model, run, losses, weights

    return made


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_processes_go_on_to_the_bit(straight: Callable, run_as: Callable, method: str, kind: str):
    model, run, losses, weights = straight(kind, method, "fp32")
    goes_on(run_as, kind, (model, METHODS[method], Training(), run), losses, weights, exactly=True)


@pytest.mark.parametrize("precision", ["bf16", "bf16 full"])
@pytest.mark.parametrize("kind", ["fsdp", "zero2", "zero3"])
def test_so_they_do_in_sixteen_bits(straight: Callable, run_as: Callable, precision: str, kind: str):
    model, run, losses, weights = straight(kind, "full", precision)
    goes_on(run_as, kind, (model, METHODS["full"], PRECISIONS[precision], run), losses, weights, exactly=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("single", "fsdp of four"),
        ("single", "zero2"),
        ("single", "zero3"),
        ("ddp", "single"),
        ("fsdp", "single"),
        ("fsdp", "fsdp of four"),
        ("fsdp of four", "zero3"),
        ("zero1", "ddp"),
        ("zero2", "fsdp"),
        ("zero3", "single"),
        ("zero3", "zero3 of four"),
        ("zero3 of four", "zero1"),
    ],
)
def test_other_processes_go_on_from_it(straight: Callable, run_as: Callable, method: str, writer: str, reader: str):
    model, run, losses, weights = straight(writer, method, "fp32")
    goes_on(run_as, reader, (model, METHODS[method], Training(), run), losses, weights, exactly=False)


def goes_on(run_as: Callable, kind: str, job: tuple, losses: list[float], weights: dict, *, exactly: bool) -> None:
    *_, run = job
    shutil.rmtree(run / "step-2", ignore_errors=True)
    shutil.copytree(run / "kept", run / "step-2")
    got_losses, got = run_as(kind, *job, 2, 4)
    assert got.keys() == weights.keys()
    if exactly:
        assert got_losses == losses[2:]
        assert all(torch.equal(got[name], weight) for name, weight in weights.items())
    else:
        assert got_losses == pytest.approx(losses[2:], rel=1e-5)
        for name, weight in weights.items():
            assert torch.allclose(got[name], weight, atol=2e-5), name


@pytest.mark.parametrize("kind", ["fsdp of four", "zero3 of four", "zero2"])
def test_each_process_writes_what_it_has(straight: Callable, kind: str):
    _, run, _, weights = straight(kind, "full", "fp32")
    assert damaged(run / "kept") is None
    numbers = []
    for file in sorted((run / "kept").glob("shard-*")):
        with safe_open(file, framework="pt") as tensors:
            numbers.append(sum(tensors.get_slice(key).get_shape()[0] for key in tensors.keys()))  # noqa: SIM118
    whole = 3 * sum(weight.numel() for weight in weights.values())
    assert sum(numbers) == whole
    assert len(numbers) == KINDS[kind][0]
    assert max(numbers) < 1.1 * whole / len(numbers)


def test_machines_that_share_no_folder_are_told(workers: Callable, tmp_path: Path):
    told = workers(2).run(jobs.saved_elsewhere, tmp_path)
    assert "another machine wrote shard-00002-model-00001-of-00001.safetensors, which is not seen here" in told[0]


def test_rank_0_may_take_its_time_over_files(workers: Callable, tmp_path: Path):
    assert workers(2).run(jobs.waits_for_a_slow_rank_0, tmp_path) == ["chosen", "chosen"]


def test_what_is_written_has_the_optimizers_names(straight: Callable):
    _, run, *_ = straight("zero3", "lora", "fp32")
    found = read(run / "kept")
    name = next(iter(found.states))
    assert sorted(found.tensors().below(f"optimizer/{name}/")) == ["exp_avg", "exp_avg_sq"]
    assert int(found.states[name]["step"]) == 2
