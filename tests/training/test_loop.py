"""The training loop: steps, when to evaluate and to save, checkpoints, what a resumed run ends with."""

import copy
import errno
import gc
import json
import math
import os
import shutil
import signal
import sys
import threading
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch

from axolotl_core.batches.plan import Plan
from axolotl_core.batches.rows import RowSource
from axolotl_core.checkpoints import format as checkpoints
from axolotl_core.checkpoints import resume
from axolotl_core.checkpoints import store as checkpoint
from axolotl_core.checkpoints.best import missing_best
from axolotl_core.checkpoints.saver import Saver
from axolotl_core.checkpoints.store import Snapshot
from axolotl_core.distributed.sharded_files import Part
from axolotl_core.distributed.start import start_strategy
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import Interrupted, MachineError, TrainError
from axolotl_core.evaluation.evaluate import evaluate
from axolotl_core.garbage import collected_by_hand
from axolotl_core.models.precision import Precision, choose
from axolotl_core.objectives.cross_entropy import token_losses
from axolotl_core.objectives.sft import Objective
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.optim.schedules import make_schedule
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.evaluation import Evaluation
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training
from axolotl_core.training import loop as loop_module
from axolotl_core.training.config import Run, TrainConfig
from axolotl_core.training.loop import Loop
from axolotl_core.training.step import train_step
from tests.rows_in_memory import CPU, FP32, LENGTHS, SPLIT, source


def ready(model, optimizer, tmp_path: Path, precision: Precision = FP32, max_grad_norm: float = 0.0, **objective) -> Strategy:
    strategy = start_strategy(Machine(device="cpu"), precision, tmp_path, device=CPU, max_grad_norm=max_grad_norm, model=model)
    strategy.prepare(Objective(model, SPLIT, strategy.autocast, **objective).train(), lambda: optimizer)
    return strategy


def gradients(model, rows: RowSource, numbers: list[int], tmp_path: Path, micro: int) -> list[torch.Tensor]:
    model = copy.deepcopy(model)
    before = [p.detach().clone() for p in model.parameters()]
    strategy = ready(model, torch.optim.SGD(model.parameters(), 1.0), tmp_path)
    train_step(strategy, rows, numbers, step=1, seed=0, micro_batch_size=micro)
    return [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]


def test_micro_batches_can_be_cut_anyhow(model, tmp_path: Path):
    rows = source(LENGTHS)
    whole, ones = (gradients(model, rows, [0, 1, 2], tmp_path, micro) for micro in (3, 1))
    for a, b in zip(whole, ones, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradients_are_clipped_and_zero_switches_clipping_off(model, tmp_path: Path):
    def change(max_grad_norm: float) -> float:
        one = copy.deepcopy(model)
        before = [p.detach().clone() for p in one.parameters()]
        strategy = ready(one, torch.optim.SGD(one.parameters(), 1.0), tmp_path, max_grad_norm=max_grad_norm)
        report = train_step(strategy, source(LENGTHS), [0], step=1, seed=0, micro_batch_size=1)
        moved = torch.sqrt(sum(((b - p) ** 2).sum() for b, p in zip(before, one.parameters(), strict=True)))
        return float(moved.detach()) / report.result().grad_norm

    assert change(0.0) == pytest.approx(1.0, rel=1e-4)
    clipped = change(0.01)
    assert 0 < clipped < 0.5


def test_a_loss_that_is_not_finite_ends_the_run_and_is_in_no_checkpoint(model, tmp_path: Path):
    with torch.no_grad():
        model.lm_head.weight[3, 0] = math.nan
    with pytest.raises(TrainError, match=r"step 1: the loss is nan; lower learning_rate, or look at the rows of this step"):
        run(model, tmp_path, 4)
    assert checkpoint.steps(tmp_path) == []


def test_padding_is_counted_apart_from_tokens(model, tmp_path: Path):
    strategy, rows = ready(model, torch.optim.SGD(model.parameters(), 1.0), tmp_path), source(LENGTHS, packed=False)
    found = train_step(strategy, rows, [0, 1, 2], step=1, seed=0, micro_batch_size=3).result()
    assert found.tokens == sum(LENGTHS[:3])
    assert found.tokens + found.padding == rows.batch([0, 1, 2]).ids_BT.numel()
    assert found.target_tokens == rows.targets([0, 1, 2])


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor"])
def test_a_gradient_that_is_not_finite_changes_no_weight(model, tmp_path: Path, optimizer: str):
    training = Training(optimizer=optimizer, learning_rate=1e-2)
    strategy = ready(model, make_optimizer(model.named_parameters(), training, Adapter()), tmp_path)
    train_step(strategy, source(LENGTHS), [0], step=1, seed=0, micro_batch_size=1)
    before = copy.deepcopy(model.state_dict())
    hook = model.model.layers[0].mlp.up_proj.weight.register_hook(lambda gradient: gradient * math.inf)
    metrics = train_step(strategy, source(LENGTHS), [1], step=2, seed=0, micro_batch_size=1)
    hook.remove()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(TrainError, match="step 2: the gradient norm is"):
        metrics.result()
    train_step(strategy, source(LENGTHS), [1], step=2, seed=0, micro_batch_size=1)
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_finite_update_is_that_of_torch(model, tmp_path: Path):
    """The flag that a fused optimizer reads changes no byte of it."""
    other = copy.deepcopy(model)
    strategy = ready(model, torch.optim.AdamW(model.parameters(), 1e-2, fused=True), tmp_path)
    plain = torch.optim.AdamW(other.parameters(), 1e-2, fused=True)
    for step in range(1, 4):
        train_step(strategy, source(LENGTHS), [0], step=step, seed=0, micro_batch_size=1)
        targets = source(LENGTHS).targets([0])
        (Objective(other, SPLIT).train()(source(LENGTHS).batch([0]).place(CPU)) / targets).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), math.inf)
        plain.step()
        plain.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_garbage_collection_by_hand_looks_at_what_is_new_and_leaves_the_rest_as_it_was():
    class Node:
        pass

    def cycle() -> Node:
        node = Node()
        vars(node)["itself"] = node
        return node

    was_on = gc.isenabled()
    gc.unfreeze()
    held = cycle()
    old = weakref.ref(held)
    with collected_by_hand():
        del held
        new = weakref.ref(cycle())
        assert not gc.isenabled()
        gc.collect()
        assert old() is not None, "it was not looked at"
        assert new() is None
    gc.collect()
    assert old() is None
    assert (gc.isenabled(), gc.get_freeze_count()) == (was_on, 0)
    gc.freeze()


def test_garbage_is_collected_between_steps_alone(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = []
    monkeypatch.setattr(loop_module, "train_step", lambda *a, **k: found.append(gc.isenabled()) or train_step(*a, **k))
    run(model, tmp_path, 2)
    assert found == [False, False]
    assert gc.isenabled()


def test_fp16_scales_the_loss_and_keeps_master_weights(model, tmp_path: Path):
    precision = choose(Training(fp16=True), Model(base_model="x"), CPU, full=True)
    strategy = ready(model, torch.optim.AdamW(model.parameters(), 1e-3), tmp_path, precision)
    found = [train_step(strategy, source(LENGTHS), [0, 1], step=step, seed=0, micro_batch_size=1).result().loss for step in range(1, 9)]
    assert strategy.scaler.get_scale() > 1
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert found[-1] < found[0]


def config(training: Training, tracking: Tracking) -> TrainConfig:
    return TrainConfig(Model(base_model="x"), Adapter(), training, Machine(), tracking, Evaluation(), "x")


def runs(folder: Path, identity: dict | None = None, branch: Path | None = None) -> Run:
    return Run(folder, folder, Path("/"), identity or {}, branch=branch)


def test_when_to_evaluate_and_to_save(tmp_path: Path):
    def loop(training: dict, tracking: dict) -> Loop:
        plan = Plan(rows=9, batch_size=2, epochs=2, seed=0)  # 5 steps an epoch
        asked = config(Training(**training), Tracking(**tracking))
        return Loop(None, None, plan, None, asked, runs(tmp_path), evaluate=lambda stop: None)  # type: ignore[arg-type]

    every = range(1, 11)
    assert [s for s in every if loop({}, {}).evaluates(s)] == [5, 10]
    assert [s for s in every if loop({"eval_steps": 4}, {}).evaluates(s)] == [4, 8, 10]
    assert [s for s in every if loop({"eval_steps": 0.3}, {}).evaluates(s)] == [3, 6, 9, 10]
    assert [s for s in every if loop({"evaluation_strategy": "no"}, {}).evaluates(s)] == [10]
    assert [s for s in every if loop({}, {}).saves(s)] == [5, 10]
    assert [s for s in every if loop({}, {"save_steps": 3}).saves(s)] == [3, 6, 9]
    assert [s for s in every if loop({}, {"save_strategy": "no"}).saves(s)] == []


SHARD = "shard-00001-model-00001-of-00001.safetensors"
WATCHED = lambda inputs: inputs  # noqa: E731
"""What a test does as each batch of an evaluation comes."""


class Logging:
    """A logger that a test listens to."""

    def __getattr__(self, name: str):
        return lambda *given: None

    def saved(self, step: int, folder: Path) -> None: ...


def run(model, folder: Path, steps: int, key: str = "k", branch: Path | None = None, training: dict | None = None, loggers=(), **tracking):
    """(log, all weights) of a run over rows in memory, and the step it went on from."""
    settings, rows = Training(**{"learning_rate": 1e-3, "warmup_steps": 1, **(training or {})}), source(LENGTHS)
    plan = Plan(len(rows), 2, 100, 0, max_steps=steps)
    follow = Tracking(**{"save_steps": 2, "save_total_limit": 3, **tracking})
    strategy = ready(model, make_optimizer(model.named_parameters(), settings, Adapter()), folder, max_grad_norm=1.0)
    held_out = source([12, 20])

    def measured(stop) -> dict | None:
        batches = (WATCHED(batch.place(CPU)) for batch in held_out.batches(range(len(held_out)), 1))
        return evaluate(partial(token_losses, model, spec=SPLIT), batches, ["memory"], stop=stop)

    identity = {"key": key, "params": {"training": settings.identity()}, "inputs": {}}
    loop = Loop(
        strategy,
        rows,
        plan,
        make_schedule(settings, Adapter(), plan.total),
        config(settings, follow),
        runs(folder, identity, branch),
        evaluate=measured if training else None,
        loggers=loggers,
        branched_at=resume.branched_at(branch),
    )
    folder.mkdir(parents=True, exist_ok=True)
    chosen, told = resume.choose(folder, follow, settings, Path("/"), branch)
    start = resume.read(chosen, identity, branch)[0] if chosen else None
    checkpoint.delete_after(folder, start.step if start else 0)
    outcome = loop.train(start, told)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return outcome, weights, start.step if start else 0


def test_training_lowers_the_loss(model, tmp_path: Path):
    outcome, *_ = run(model, tmp_path, 12)
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said(model, tmp_path: Path, capsys):
    _, wanted, _ = run(copy.deepcopy(model), tmp_path / "straight", 6)
    run(copy.deepcopy(model), tmp_path / "cut", 6)
    newest = tmp_path / "cut" / "step-6" / SHARD
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    _, got, resumed_from = run(copy.deepcopy(model), tmp_path / "cut", 6)
    assert resumed_from == 4
    assert torch.equal(got, wanted)
    told = "".join(capsys.readouterr())
    assert f"step-6 is skipped ({SHARD} is not as it was written); the one before is used" in told


@pytest.fixture
def in_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written as they are beside a GPU."""
    monkeypatch.setattr(loop_module, "Saver", lambda run, keep, group, device, **_: Saver(run, keep, group, device, in_background=True))


def test_what_is_written_in_the_background_is_of_its_step(model, tmp_path: Path, monkeypatch, in_background: None):
    best = {"load_best_model_at_end": True, "eval_steps": 4}
    straight, wanted, _ = run(copy.deepcopy(model), tmp_path / "straight", 9, training=best)
    save, told = checkpoint.save, []

    def slow(folder: Path, name: str, *rest) -> None:
        assert name == "step-9" or threading.current_thread() is not threading.main_thread()
        assert started.wait(60), "training goes on while it is written"
        save(folder, name, *rest)

    started = threading.Event()
    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(Logging, "saved", lambda self, step, folder: told.append((step, checkpoints.damaged(folder))))
    step = Loop._train_step

    def sets(self, number: int):
        found = step(self, number)
        if number == 4:
            started.set()
        return found

    monkeypatch.setattr(Loop, "_train_step", sets)
    run(copy.deepcopy(model), tmp_path / "cut", 9, training=best, loggers=[Logging()])
    assert [number for number, _ in told] == [2, 4, 6, 8, 9]
    assert not any(bad for _, bad in told)
    checkpoint.delete_after(tmp_path / "cut", 6)
    again, got, resumed_from = run(copy.deepcopy(model), tmp_path / "cut", 9, training=best)
    assert (resumed_from, again.step) == (6, straight.step)
    assert torch.equal(got, wanted)


def test_what_an_optimizer_counts_up_in_place_is_copied_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    going_on, found = threading.Event(), []
    monkeypatch.setattr(checkpoint, "save", lambda run, name, saved, group: going_on.wait(60) and found.append(saved))
    step, numbers = torch.tensor(2.0), torch.ones(3)
    saver = Saver(tmp_path, 3, None, CPU, in_background=True)
    saver.save("step-2", Snapshot(2, {"weights/a": Part(numbers, 0, 3)}, {"a": {"step": step, "kind": "x"}}, [], {}), wait=False)
    step += 1
    numbers += 1
    assert saver.take_written() == []
    going_on.set()
    saver.wait()
    assert saver.take_written() == ["step-2"]
    assert found[0].states == {"a": {"step": torch.tensor(2.0), "kind": "x"}}
    assert found[0].parts["weights/a"].values.tolist() == [1, 1, 1]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_one_before(
    model, tmp_path: Path, monkeypatch, in_background: None
):
    write = checkpoint.write

    def full(folder: Path, parts, group) -> list[Path]:
        if "step-4" in str(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(folder, parts, group)

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(
        MachineError, match=r"step-4: the disk is full .*; free some space and run again; the previous one was left as it was"
    ):
        run(model, tmp_path, 8)
    assert checkpoint.steps(tmp_path) == [2]
    assert checkpoints.damaged(tmp_path / "step-2") is None


def test_a_checkpoint_of_an_older_version_is_passed_over(model, tmp_path: Path, capsys):
    run(copy.deepcopy(model), tmp_path, 4)
    for step in (2, 4):
        digests = json.loads((tmp_path / f"step-{step}" / "COMPLETE").read_text())
        del digests[SHARD]
        (tmp_path / f"step-{step}" / "COMPLETE").write_text(json.dumps(digests))
    *_, resumed_from = run(copy.deepcopy(model), tmp_path, 4)
    assert resumed_from == 0
    assert "it was written by an older version, in another form" in "".join(capsys.readouterr())


def test_a_checkpoint_that_was_not_finished_is_none(model, tmp_path: Path):
    run(model, tmp_path, 4)
    (tmp_path / "step-4" / "COMPLETE").unlink()
    assert checkpoints.damaged(tmp_path / "step-4") == "COMPLETE is missing or unreadable"
    assert checkpoints.damaged(tmp_path / "step-2") is None


def test_only_the_newest_checkpoints_are_kept(model, tmp_path: Path):
    run(model, tmp_path, 11)
    assert checkpoint.steps(tmp_path) == [8, 10, 11], "the last step has one, whatever save_steps is"


def test_a_run_that_is_over_has_a_checkpoint_even_where_none_is_asked_for(model, tmp_path: Path):
    _, wanted, _ = run(copy.deepcopy(model), tmp_path, 3, save_strategy="no", save_steps=None)
    _, got, resumed_from = run(model, tmp_path, 3, save_strategy="no", save_steps=None)
    assert resumed_from == 3
    assert torch.equal(got, wanted)


def test_an_evaluation_that_fails_after_the_last_step_loses_nothing(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training = {"eval_steps": 100}
    straight, wanted, _ = run(copy.deepcopy(model), tmp_path / "straight", 4, training=training)
    plain, calls = token_losses, []

    def fails(*arguments, **settings):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return plain(*arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setitem(globals(), "token_losses", fails)
        run(copy.deepcopy(model), tmp_path / "failed", 4, training=training)
    again, got, resumed_from = run(copy.deepcopy(model), tmp_path / "failed", 4, training=training)
    assert resumed_from == 4
    assert torch.equal(got, wanted)
    assert [row.get("eval_loss") for row in again.log] == [row.get("eval_loss") for row in straight.log]


def test_a_finished_run_keeps_its_last_checkpoint_and_begins_anew_on_request(model, tmp_path: Path):
    run(copy.deepcopy(model), tmp_path, 6)
    checkpoint.finish(tmp_path)
    assert checkpoint.steps(tmp_path) == [6]
    checkpoint.restart(tmp_path)
    assert checkpoint.steps(tmp_path) == []
    run(model, tmp_path, 4)
    checkpoint.restart(tmp_path)
    assert checkpoint.steps(tmp_path) == [2, 4], "what was interrupted is not thrown away"


def test_resuming_can_be_switched_off(model, tmp_path: Path):
    run(copy.deepcopy(model), tmp_path, 4)
    assert run(model, tmp_path, 4, auto_resume_from_checkpoints=False)[2] == 0


def test_a_damaged_checkpoint_never_pushes_out_a_whole_one(model, tmp_path: Path):
    run(copy.deepcopy(model), tmp_path, 6)
    (tmp_path / "step-6" / "COMPLETE").unlink()
    run(copy.deepcopy(model), tmp_path, 5)
    assert all(checkpoints.damaged(tmp_path / f"step-{step}") is None for step in checkpoint.steps(tmp_path))


def test_a_checkpoint_can_be_named_to_go_on_from(model, tmp_path: Path):
    _, wanted, _ = run(copy.deepcopy(model), tmp_path, 6)
    _, got, resumed_from = run(copy.deepcopy(model), tmp_path, 6, resume_from_checkpoint=str(tmp_path / "step-2"))
    assert resumed_from == 2
    assert torch.equal(got, wanted)


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(model, tmp_path: Path):
    run(copy.deepcopy(model), tmp_path, 4)
    with pytest.raises(TrainError) as error:
        run(model, tmp_path, 6, key="other", training={"weight_decay": 0.5})
    told = str(error.value).splitlines()
    assert told[0] == f"{tmp_path / 'step-4'}: is a checkpoint of another run"
    assert told[1].split() == ["checkpoint", "now"]
    assert told[2].split() == ["training.weight_decay", "default", "0.5"]
    assert told[3] == f"`axolotl stage train --branch-from {tmp_path / 'step-4'}` resumes from it all the same, as a run of its own"


def test_a_run_can_branch_from_another(model, tmp_path: Path):
    run(copy.deepcopy(model), tmp_path / "one", 4)
    _, _, resumed_from = run(model, tmp_path / "two", 6, key="other", branch=tmp_path / "one" / "step-4")
    assert resumed_from == 4


def test_a_branch_chooses_the_best_of_its_own_evaluations(model, tmp_path: Path):
    best = {"load_best_model_at_end": True, "eval_steps": 1, "learning_rate": 3e-2}
    run(copy.deepcopy(model), tmp_path / "one", 4, training=best)
    outcome, *_ = run(model, tmp_path / "two", 8, key="other", branch=tmp_path / "one" / "step-4", training=best)
    own = {row["step"]: row["eval_loss"] for row in outcome.log if "eval_loss" in row and row["step"] > 4}
    assert outcome.step == min(own, key=lambda step: own[step])
    assert outcome.step == 8 or missing_best(tmp_path / "two", outcome.step) is None


@pytest.mark.parametrize("harm", ["gone", "damaged", "of another step"])
def test_a_checkpoint_whose_best_weights_are_lost_is_passed_over(model, tmp_path: Path, harm: str, capsys):
    best = {"load_best_model_at_end": True, "greater_is_better": True, "eval_steps": 1, "learning_rate": 3e-2}
    straight, wanted, _ = run(copy.deepcopy(model), tmp_path / "straight", 12, training=best)
    assert straight.step < 8, "the best is not the last here"
    run(copy.deepcopy(model), tmp_path / "cut", 12, training=best)
    folder = tmp_path / "cut" / f"best-{straight.step}"
    if harm == "gone":
        shutil.rmtree(folder)
    elif harm == "damaged":
        (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1] + b"x")
    else:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "cut" / "step-12", folder)
    again, got, resumed_from = run(copy.deepcopy(model), tmp_path / "cut", 12, training=best)
    assert "the best evaluation" in "".join(capsys.readouterr())
    assert resumed_from < straight.step
    assert again.step == straight.step
    assert torch.equal(got, wanted)


def test_a_kill_between_a_better_evaluation_and_the_next_checkpoint_costs_the_steps_since_the_last(model, tmp_path: Path, monkeypatch):
    best = {"load_best_model_at_end": True, "eval_steps": 2, "learning_rate": 1e-3}
    straight, wanted, _ = run(copy.deepcopy(model), tmp_path / "straight", 8, training=best, save_steps=3, save_total_limit=1)
    plain = Loop._save

    def killed(self, name: str, step: int, **settings) -> None:
        plain(self, name, step, **settings)
        if name == "best-4":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_save", killed)
        run(copy.deepcopy(model), tmp_path / "cut", 8, training=best, save_steps=3, save_total_limit=1)
    again, got, resumed_from = run(copy.deepcopy(model), tmp_path / "cut", 8, training=best, save_steps=3, save_total_limit=1)
    assert resumed_from == 3
    assert again.step == straight.step
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor", "sgd", "adagrad", "adamw_torch_8bit", "adamw_torch_4bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_optimizer_resumes_to_the_bit(model, tmp_path: Path, optimizer: str, dtype: torch.dtype, not_compiled: None):
    training, model = {"optimizer": optimizer}, model.to(dtype)
    _, wanted, _ = run(copy.deepcopy(model), tmp_path / "straight", 4, training=training)
    run(copy.deepcopy(model), tmp_path / "cut", 4, training=training)
    checkpoint.delete_after(tmp_path / "cut", 2)
    _, got, resumed_from = run(copy.deepcopy(model), tmp_path / "cut", 4, training=training)
    assert resumed_from == 2
    assert torch.equal(got, wanted)


def test_the_best_evaluation_is_kept_and_patience_ends_a_run(model, tmp_path: Path):
    high = {"early_stopping_patience": 2, "eval_steps": 1, "learning_rate": 3e-2}
    outcome, weights, _ = run(model, tmp_path, 60, training=high)
    losses_ = {row["step"]: row["eval_loss"] for row in outcome.log if "eval_loss" in row and row["step"]}
    best = min(losses_, key=lambda step: losses_[step])
    assert max(losses_) == best + 2 < 60
    assert outcome.step == best
    again, same, resumed_from = run(copy.deepcopy(model), tmp_path, 60, training=high)
    assert resumed_from == max(losses_)
    assert torch.equal(same, weights), "a run that was killed when it was over does not go on"
    assert again.log[-1]["step"] == max(losses_)
    saved = checkpoint.read(tmp_path / f"best-{best}").tensors()
    assert torch.equal(weights, torch.cat([saved.read(f"weights/{name}", 0, p.numel()) for name, p in model.named_parameters()]))


def test_two_processes_cannot_train_the_same_run(tmp_path: Path):
    with (
        checkpoint.locked(tmp_path),
        pytest.raises(TrainError, match=r"process \d+ on \S+ is training this very run; wait for it"),
        checkpoint.locked(tmp_path),
    ):
        pass


def test_the_log_is_plain_json(model, tmp_path: Path):
    outcome, *_ = run(model, tmp_path, 2)
    assert json.loads(json.dumps(outcome.log)) == outcome.log


@pytest.mark.parametrize("when", ["in the last step", "in an evaluation", "in the evaluation before the first step"])
def test_ctrl_c_is_answered_at_once_and_what_it_ends_is_taken_up_again(model, tmp_path: Path, monkeypatch, capfd, when: str):
    settings = {"eval_steps": 2}
    straight, wanted, _ = run(copy.deepcopy(model), tmp_path / "straight", 4, training=settings)
    press = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    calls = 0
    if when == "in the last step":
        inner = loop_module.train_step

        def step(*args, **kwargs):
            if kwargs["step"] == 4:
                press()
            return inner(*args, **kwargs)

        monkeypatch.setattr(loop_module, "train_step", step)
    else:

        def once(inputs):
            nonlocal calls
            calls += 1
            if calls == {"in an evaluation": 2, "in the evaluation before the first step": 1}[when]:
                press()
            return inputs

        monkeypatch.setattr(sys.modules[__name__], "WATCHED", once)
    with pytest.raises(Interrupted) as caught:
        run(copy.deepcopy(model), tmp_path / "cut", 4, training=settings)
    told = capfd.readouterr().err
    assert {
        "in the last step": "stopping after this step (4 of 4), press again to stop now",
        "in an evaluation": "stopping after this batch of the evaluation (step 2 of 4), which is taken up again",
        "in the evaluation before the first step": "stopping after this batch of the evaluation (step 0 of 4), which is taken up again",
    }[when] in told
    assert caught.value.exit_status == 75
    monkeypatch.undo()
    resumed, got, _ = run(copy.deepcopy(model), tmp_path / "cut", 4, training=settings)
    assert torch.equal(got, wanted)
    assert [(row["step"], row.get("loss"), row.get("eval_loss")) for row in resumed.log] == [
        (row["step"], row.get("loss"), row.get("eval_loss")) for row in straight.log
    ]


def test_the_watchdog_sees_the_same_after_a_resume():
    from axolotl_core.training.early_stopping import is_diverged

    training = Training(loss_watchdog_threshold=5.0, loss_watchdog_patience=3)
    log = [{"step": step, "loss": loss} for step, loss in ((1, 6.0), (3, 6.0), (4, 6.0), (6, 1.0))]  # high losses, and every sixth
    assert not is_diverged(log[:3], 4, training)
    assert is_diverged([*log[:3], {"step": 5, "loss": 7.0}], 5, training)
    assert not is_diverged(log, 6, training)
    assert not is_diverged(log, 4, Training())
