"""The step and what it rests on: the plan, the loss, the schedule, checkpoints."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from axolotl_core.errors import MachineError, ParamsError, TrainError
from axolotl_core.evaluation.measure import measure
from axolotl_core.models.load import device_of, load_model
from axolotl_core.packing.lay import UNTRAINED
from axolotl_core.packing.plan import fit, lay_out
from axolotl_core.params.machine import Machine
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training
from axolotl_core.training import checkpoint
from axolotl_core.training.batches import Batch, RowSource
from axolotl_core.training.loop import evaluates, saves, train
from axolotl_core.training.loss import loss_sum
from axolotl_core.training.optim import OPTIMIZERS, make_optimizer
from axolotl_core.training.plan import Plan
from axolotl_core.training.precision import choose
from axolotl_core.training.schedule import constant, cosine, warmup_steps
from axolotl_core.training.step import train_step


class Memory:
    """Samples of random tokens in memory, prompts of a third untrained."""

    def __init__(self, lengths: list[int]) -> None:
        draw = np.random.default_rng(3)
        self.ids = [draw.integers(3, 500, n).astype(np.int32) for n in lengths]

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        labels = self.ids[i].copy()
        labels[: len(labels) // 3] = UNTRAINED
        return self.ids[i], labels


def source(lengths: list[int], packed: bool = True, sequence_len: int = 32) -> RowSource:
    pieces, _ = fit(0, np.array(lengths), sequence_len, "drop")
    return RowSource(lay_out(pieces, sequence_len, packed), [Memory(lengths)], 0, sequence_len, False)  # type: ignore[list-item]


@pytest.fixture
def model(model_folder: Path):
    return load_model(model_folder, Machine(device="cpu"), vocabulary=1, packed=True).model


LENGTHS = [9, 14, 30, 7, 21, 5, 11, 16, 8, 13]


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([1.0, 2.0, 2.5]))
def test_each_epoch_sees_each_row_once(rows: int, batch_size: int, epochs: float):
    plan = Plan(rows, batch_size, epochs, seed=1)
    per_epoch = plan.steps_per_epoch
    for epoch in range(int(epochs)):
        seen = [row for step in range(epoch * per_epoch, (epoch + 1) * per_epoch) for row in plan.rows_of(step)]
        assert sorted(seen) == list(range(rows))
    assert plan.total == math.ceil(per_epoch * epochs)


def test_the_order_is_a_function_of_seed_and_epoch():
    plan, other = Plan(50, 50, 2, 0), Plan(50, 50, 2, 1)
    assert plan.rows_of(0) == Plan(50, 50, 2, 0).rows_of(0)
    assert plan.rows_of(0) != plan.rows_of(1)
    assert plan.rows_of(0) != other.rows_of(0)


def test_max_steps_ends_a_run_early():
    assert Plan(50, 5, 2, 0, max_steps=3).total == 3


def test_the_loss_is_that_of_full_logits(model):
    batch = source(LENGTHS).batch([0, 1, 2])
    logits = model(input_ids=batch.ids_BT, position_ids=batch.positions_BT, use_cache=False).logits
    wanted = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels_BT[:, 1:].flatten(), reduction="sum")
    assert torch.allclose(loss_sum(model, batch, "positions"), wanted, rtol=1e-5)


def test_packing_changes_no_loss(model):
    packed, alone = source(LENGTHS), source(LENGTHS, packed=False)
    losses = [sum(float(loss_sum(model, s.batch([i]), "positions").detach()) for i in range(len(s))) for s in (packed, alone)]
    targets = [sum(s.batch([i]).targets for i in range(len(s))) for s in (packed, alone)]
    assert len(packed) < len(alone)
    assert targets[0] == targets[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def gradients(model, batches: list[Batch]) -> list[torch.Tensor]:
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    before = [p.detach().clone() for p in model.parameters()]
    train_step(model, batches, optimizer, Accelerator(cpu=True), step=1, how="positions", max_grad_norm=0.0)
    return [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]


def test_micro_batches_can_be_cut_anyhow(model):
    rows = source(LENGTHS)
    whole, ones = gradients(model, [rows.batch([0, 1, 2])]), gradients(model, [rows.batch([i]) for i in range(3)])
    for a, b in zip(whole, ones, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradients_are_clipped_and_zero_switches_clipping_off(model):
    def change(max_grad_norm: float) -> float:
        one = copy.deepcopy(model)
        before = [p.detach().clone() for p in one.parameters()]
        optimizer = torch.optim.SGD(one.parameters(), 1.0)
        report = train_step(
            one, [source(LENGTHS).batch([0])], optimizer, Accelerator(cpu=True), step=1, how="positions", max_grad_norm=max_grad_norm
        )
        moved = torch.sqrt(sum(((b - p) ** 2).sum() for b, p in zip(before, one.parameters(), strict=True)))
        return float(moved.detach()) / report.grad_norm

    assert change(0.0) == pytest.approx(1.0, rel=1e-4)
    clipped = change(0.01)
    assert 0 < clipped < 0.5


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(model):
    with torch.no_grad():
        model.lm_head.weight[3, 0] = math.nan
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(TrainError, match=r"step 7: the loss is nan; the weights are as after step 6; lower learning_rate"):
        train_step(model, [source(LENGTHS).batch([0])], optimizer, Accelerator(cpu=True), step=7, how="positions", max_grad_norm=1.0)
    assert all(torch.equal(b, p) for b, p in zip(before[:1], list(model.parameters())[:1], strict=True))
    assert not optimizer.state


def test_a_batch_defends_itself():
    batch = source(LENGTHS).batch([0])
    wrong = batch.labels_BT.clone()
    wrong[0, 0] = 5
    with pytest.raises(AssertionError, match="a sample's first label is trained by its neighbour"):
        Batch(batch.ids_BT, wrong, batch.positions_BT, batch.sets_BT)


@pytest.mark.parametrize(("pad", "length"), [(False, 64), (True, 100)])
def test_rows_are_padded_to_64_or_to_sequence_len(pad: bool, length: int):
    rows = source([20, 30], sequence_len=100)
    rows = RowSource(rows.rows, rows.samples, 0, 100, pad)
    assert rows.batch([0]).ids_BT.shape == (1, length)


@pytest.mark.parametrize(("schedule", "wanted"), [(cosine, [0.0, 0.5, 1.0, 0.75, 0.25]), (constant, [0.0, 0.5, 1.0, 1.0, 1.0])])
def test_schedules(schedule, wanted: list[float]):
    assert [round(schedule(step, 5, 2), 6) for step in range(5)] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "total", "steps"),
    [({}, 1000, 30), ({}, 10_000, 100), ({"warmup_steps": 0}, 10, 0), ({"warmup_ratio": 0.25}, 10, 3)],
)
def test_warmup(options: dict, total: int, steps: int):
    assert warmup_steps(Training(**options), total) == steps


def test_a_warmup_longer_than_the_run_is_told():
    with pytest.raises(ParamsError, match=r"training.warmup_steps is 500 but the run has 320 steps; lower it, or raise num_epochs"):
        warmup_steps(Training(warmup_steps=500), 320)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers_lower_a_quadratic_and_spare_biases_the_decay(name: str):
    weight, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([("w", weight), ("b", bias)], Training(optimizer=name, learning_rate=0.1, weight_decay=0.5))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    for _ in range(5):
        optimizer.zero_grad()
        (weight.square().sum() + bias.square().sum()).backward()
        optimizer.step()
    assert weight.square().sum() < 4
    assert bias.square().sum() < 2


def test_precision_on_a_cpu_is_fp32_unless_asked_for():
    assert choose("auto", torch.device("cpu")) == "fp32"
    assert choose(True, torch.device("cpu")) == "bf16"


def test_when_to_evaluate_and_to_save():
    plan = Plan(rows=9, batch_size=2, epochs=2, seed=0)  # 5 steps an epoch
    every = range(plan.total)
    assert [s + 1 for s in every if evaluates(s, plan, Training())] == [5, 10]
    assert [s + 1 for s in every if evaluates(s, plan, Training(eval_steps=4))] == [4, 8, 10]
    assert [s + 1 for s in every if evaluates(s, plan, Training(evaluation_strategy="no"))] == [10]
    assert [s + 1 for s in every if saves(s, plan, Tracking())] == [5, 10]
    assert [s + 1 for s in every if saves(s, plan, Tracking(save_steps=3))] == [3, 6, 9]
    assert [s + 1 for s in every if saves(s, plan, Tracking(save_strategy="no"))] == []


def run(model, folder: Path, steps: int, **tracking) -> tuple:
    outcome = train(
        model,
        source(LENGTHS),
        Plan(len(source(LENGTHS)), 2, 100, 0, max_steps=steps),
        folder,
        Accelerator(cpu=True),
        how="positions",
        training=Training(learning_rate=1e-3, warmup_steps=1),
        machine=Machine(),
        tracking=Tracking(save_steps=2, save_total_limit=3, **tracking),
        evaluate=None,
    )
    return outcome, torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_lowers_the_loss(model, tmp_path: Path):
    outcome, _ = run(model, tmp_path, 12)
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said(model, tmp_path: Path, capsys):
    _, wanted = run(copy.deepcopy(model), tmp_path / "straight", 6)
    run(copy.deepcopy(model), tmp_path / "cut", 6)
    newest = tmp_path / "cut" / "step-6" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    outcome, got = run(copy.deepcopy(model), tmp_path / "cut", 6)
    assert outcome.resumed_from == 4
    assert torch.equal(got, wanted)
    told = capsys.readouterr()
    assert "step-6 is damaged (weights.safetensors is not as it was written); the one before is used" in told.out + told.err


def test_a_checkpoint_that_was_not_finished_is_none(model, tmp_path: Path):
    run(model, tmp_path, 4)
    (tmp_path / "step-4" / "COMPLETE").unlink()
    assert checkpoint.damaged(tmp_path / "step-4") == "COMPLETE is missing or unreadable"
    assert checkpoint.damaged(tmp_path / "step-2") is None


def test_only_the_newest_checkpoints_are_kept(model, tmp_path: Path):
    run(model, tmp_path, 11)
    assert checkpoint.steps(tmp_path) == [6, 8, 10]


def test_resuming_can_be_switched_off(model, tmp_path: Path):
    run(copy.deepcopy(model), tmp_path, 4)
    assert run(model, tmp_path, 4, auto_resume_from_checkpoints=False)[0].resumed_from == 0


def test_a_damaged_checkpoint_never_pushes_out_a_whole_one(model, tmp_path: Path):
    run(copy.deepcopy(model), tmp_path, 6)
    (tmp_path / "step-6" / "COMPLETE").unlink()
    run(copy.deepcopy(model), tmp_path, 5)
    assert all(checkpoint.damaged(tmp_path / f"step-{step}") is None for step in checkpoint.steps(tmp_path))


def test_fractions_of_epochs_add_no_step():
    assert [Plan(50, 1, 1.1, 0).total, Plan(100, 1, 2.2, 0).total] == [55, 220]


def test_a_device_that_is_not_there_is_told():
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="machine.device is cuda, which this machine does not have; set it to auto or cpu"):
            device_of(Machine(device="cuda"))


def test_two_processes_cannot_train_the_same_run(tmp_path: Path):
    with (
        checkpoint.locked(tmp_path),
        pytest.raises(TrainError, match=r"process \d+ is training this very run; wait for it"),
        checkpoint.locked(tmp_path),
    ):
        pass


def test_measure_weighs_every_token_the_same(model):
    rows = source(LENGTHS)
    found = measure(model, rows, ["memory"], "positions", 2)
    total = sum(float(loss_sum(model, rows.batch([i]), "positions").detach()) for i in range(len(rows)))
    tokens = sum(rows.batch([i]).targets for i in range(len(rows)))
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["datasets"] == {"memory": {k: v for k, v in found.items() if k != "datasets"}}


def test_measure_without_rows_has_no_number(model):
    assert measure(model, source([]), ["memory"], "positions", 2)["loss"] is None


def test_the_log_is_plain_json(model, tmp_path: Path):
    outcome, _ = run(model, tmp_path, 2)
    assert json.loads(json.dumps(outcome.log)) == outcome.log
