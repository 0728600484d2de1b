"""Kernels give what PyTorch gives, or are not taken."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from axolotl_core import lookup
from axolotl_core.errors import ModelError
from axolotl_core.kernels.choose import LAYERS, LOSSES, choose_loss, replace_layers, requested, unmet
from axolotl_core.kernels.layers import liger_rms_norm
from axolotl_core.kernels.losses import cut_cross_entropy, liger_cross_entropy
from axolotl_core.kernels.replace import replace_each
from axolotl_core.kernels.triton import INTERPRETER
from axolotl_core.models.forward import ForwardSpec
from axolotl_core.models.load import load_model, need_of
from axolotl_core.models.self_test import difference
from axolotl_core.objectives.cross_entropy import kernel_difference
from axolotl_core.params.fallbacks import KERNELS
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.training.setup import unlike_pytorch
from tests.cli.test_cli import call
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")


def interpreted(*words: str, folder: Path = REPOSITORY) -> dict[str, Any]:
    """What tests/kernels/interpreted.py prints."""
    environment = {**os.environ, INTERPRETER: "1", "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "tests.kernels.interpreted", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def kernels() -> dict[str, Any]:
    return interpreted()


REPLACED = {
    "liger_rms_norm": {"llama": 5, "gemma2": 9, "qwen3": 9, "glm4": 9, "phi3": 5},
    "liger_glu_activation": {"llama": 2, "gemma2": 2, "qwen3": 2, "glm4": 0, "phi3": 0},  # the last two have one product for both
    "liger_rope": {"llama": 2, "gemma2": 2, "qwen3": 2, "glm4": 0, "phi3": 2},  # glm4 rotates neighbours
}
"""Modules of two layers that run a kernel."""


def test_layers_of_a_kernel_equal_those_of_pytorch(kernels: dict[str, Any]):
    """Logits and gradients of the model, in fp32 and fp16, by triton's interpreter."""
    for name, counts in REPLACED.items():
        assert {key.split()[0]: count for key, (count, _) in kernels[name].items()} == counts
        assert [wrong for _, wrong in kernels[name].values() if wrong] == []


def test_under_selective_checkpointing_the_gradients_are_the_same(kernels: dict[str, Any]):
    """A kernel that writes in place would write twice into what is kept."""
    assert kernels["selective"] < 1e-5


def test_copies_that_peft_makes_run_their_own_weights(kernels: dict[str, Any]):
    assert kernels["copied"] == []


def test_losses_of_a_kernel_equal_those_of_pytorch(kernels: dict[str, Any]):
    names = [name for name in lookup.names(LOSSES) if not name.startswith("flash")]  # which is imported on a GPU alone
    for name in names:
        wrong = kernels[name].pop("a loss that is wrong")
        assert "it gives another loss, by 0.5 of the largest" in wrong
        assert set(kernels[name].values()) == {None}
        assert len(kernels[name]) == (1 if name == "cut_cross_entropy" else 2), "the latter has no fp32"


def test_a_run_with_kernels_is_the_run_without(project: Path):
    found = interpreted("train", folder=project)
    for name in ("loss_first", "loss_last"):
        assert found["kernels"][name] == pytest.approx(found["plain"][name], rel=1e-5)
    assert found["kernels"]["loss_last"] != found["kernels"]["loss_first"]


def need(model: Any) -> Any:
    return need_of(model.config, CPU, torch.float32, packed=True)


def test_what_does_not_fit_this_machine_says_so(model, project: Path):
    machine = Machine(liger_rms_norm=True, cut_cross_entropy=True, flash_attn_cross_entropy=True)
    assert unmet(machine, need(model)) == [
        "machine.liger_rms_norm: it runs on a GPU, not on cpu; PyTorch's own layers run",
        "machine.cut_cross_entropy: it runs in 16 bits, not in float32; set training.bf16: true; logits are made a few positions at a "
        "time, in PyTorch",
        "machine.flash_attn_cross_entropy: flash-attn is not installed; pip install 'axolotl[flash-attn]'; logits are made a few "
        "positions at a time, in PyTorch",
    ]
    assert replace_layers(model, machine, need(model), lambda change: pytest.fail("it does not fit")) == []
    with pytest.raises(ModelError, match=r"machine.liger_rms_norm: it runs on a GPU, not on cpu \(machine.allow_fallback is false\)"):
        unmet(Machine(liger_rms_norm=True, allow_fallback=False), need(model))
    told = call("check", "--set", "machine.liger_rms_norm=true")
    assert "machine.liger_rms_norm: it runs on a GPU, not on cpu; PyTorch's own layers run" in told


def test_a_layer_that_is_wrong_is_put_back(model, monkeypatch: pytest.MonkeyPatch):
    """The kernel passes the look at one module (it changes what is further in), not the one at the model."""

    def replace(model: Any, device: torch.device) -> list[Any]:
        norm = model.model.norm
        norm.forward = lambda states: 1.5 * type(norm).forward(norm, states)
        return [norm]

    monkeypatch.setattr(liger_rms_norm, "fits", lambda need: None)
    monkeypatch.setattr(liger_rms_norm, "replace", replace)
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids, attention_mask=torch.ones_like(ids)).logits
    notes = replace_layers(
        model, Machine(liger_rms_norm=True), need(model), lambda change: difference(model, ForwardSpec(split=True), None, change)
    )
    assert notes == [
        "machine.liger_rms_norm: it gives other logits in LlamaForCausalLM, by 0.5 of the largest; PyTorch's own layers run",
    ]
    assert torch.equal(model(ids, attention_mask=torch.ones_like(ids)).logits, before)


def test_a_loss_that_is_wrong_is_not_taken(model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(liger_cross_entropy, "fits", lambda need: None)
    monkeypatch.setattr(liger_cross_entropy, "loss_sum", lambda *states: torch.nn.functional.linear(*states[:3]).sum())
    unlike = lambda kernel: kernel_difference(model, None, CPU, kernel.loss_sum)  # noqa: E731
    kernel, notes = choose_loss(Machine(liger_cross_entropy=True), need(model), unlike)
    assert kernel is None
    assert "machine.liger_cross_entropy: it gives another loss, by" in notes[0]


def test_a_kernel_that_does_not_run_here_is_not_taken(model, monkeypatch: pytest.MonkeyPatch):
    """It does not compile, or its package has moved what it had: no traceback, and nothing is left replaced."""

    def broken(*_: Any) -> Any:
        model.model.norm.forward = lambda states: states
        raise AttributeError("module has no attribute 'rms_norm'")

    monkeypatch.setattr(liger_rms_norm, "fits", lambda need: None)
    monkeypatch.setattr(liger_rms_norm, "replace", broken)
    monkeypatch.setattr(liger_cross_entropy, "fits", lambda need: None)
    monkeypatch.setattr(liger_cross_entropy, "loss_sum", broken)
    machine = Machine(liger_rms_norm=True, liger_cross_entropy=True)
    sentence = "it does not run here (module has no attribute 'rms_norm')"
    changed = partial(difference, model, ForwardSpec(split=True), None)
    assert replace_layers(model, machine, need(model), changed) == [f"machine.liger_rms_norm: {sentence}; PyTorch's own layers run"]
    assert "forward" not in vars(model.model.norm)
    _, notes = choose_loss(machine, need(model), lambda kernel: kernel_difference(model, None, CPU, kernel.loss_sum))
    assert notes == [f"machine.liger_cross_entropy: {sentence}; logits are made a few positions at a time, in PyTorch"]


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_a_quantised_base_is_looked_at_in_its_own_dtype(model_folder: Path, bits: str):
    """Weights in bytes are no dtype for states."""
    quantise = Model(base_model="x", **{bits: True})
    model = load_model(model_folder, Machine(device="cpu"), vocabulary=1, packed=True, quantise=quantise).model
    twice = lambda module, x: 2 * type(module).forward(module, x)  # noqa: E731
    same = lambda module, x: type(module).forward(module, x)  # noqa: E731
    mlps = [layer.mlp for layer in model.model.layers]
    replaced = replace_each(model, mlps, lambda _: [twice, same], lambda mlp: mlp.gate_proj.in_features, CPU)
    assert replaced == mlps
    assert {mlp.forward.__func__ for mlp in mlps} == {same}


def test_a_loss_that_adds_up_in_sixteen_bits_is_for_frozen_output_layers(model):
    machine = Machine(cut_cross_entropy=True)
    sixteen = need_of(model.config, CPU, torch.bfloat16, packed=True)
    taken = []
    for frozen in (False, True):
        model.lm_head.weight.requires_grad = not frozen
        unlike = partial(unlike_pytorch, model, ForwardSpec(split=True), torch.bfloat16, CPU)
        try:
            cut_cross_entropy.fits, real = (lambda need: None), cut_cross_entropy.fits
            _, notes = choose_loss(machine, sixteen, unlike)
        finally:
            cut_cross_entropy.fits = real
        taken.append(notes[0] if notes else "")
    assert "it adds up the gradient of the output layer in 16 bits, and that layer is trained" in taken[0]
    assert "is trained" not in taken[1]


def test_every_kernel_has_a_switch_and_every_switch_is_a_kernel_or_said_to_be_none():
    options = [option for table in (LAYERS, LOSSES) for name in lookup.names(table) for option in lookup.find(table, name, "").OPTIONS]
    switches = {name for name in Machine.model_fields if name.startswith(("liger_", "flash_attn_", "cut_", "lora_", "unsloth_"))}
    assert len(options) == len(set(options))
    assert set(options) | set(KERNELS) == switches
    assert not set(options) & set(KERNELS)
    assert [name for name, _ in requested(Machine(liger_swiglu=True), LAYERS)] == ["liger_swiglu"]
