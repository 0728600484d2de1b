"""The model as it is trained: loaded, quantised, with its adapter, compiled, in its number formats."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from axolotl_core.adapters import lora
from axolotl_core.errors import MachineError, ParamsError
from axolotl_core.models.load import Loaded, device_of, load_model
from axolotl_core.models.packing import How, bare, self_test
from axolotl_core.models.shape import check_new_tokens, check_positions, model_on_meta
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.training import Training
from axolotl_core.training.precision import Precision, choose
from axolotl_core.training.step import seed_everything

COMPILER_ERRORS = (RuntimeError, ImportError, OSError, ValueError, TypeError, AttributeError, AssertionError)
"""What a backend of torch.compile raises where its compiler is missing, or the backend itself."""


@dataclass(frozen=True)
class Ready:
    """A model to train, how it is run, in which formats."""

    model: Any
    how: How
    attention: str
    precision: Precision
    device: torch.device
    notes: tuple[str, ...] = ()
    """Sentences about preferences of the machine section that were not met."""

    def arithmetic(self) -> str:
        """What is trained, and in what, as a line for the user."""
        sizes = [(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1), p.requires_grad) for p in self.model.parameters()]
        trained = sum(size for size, learns in sizes if learns)
        return (
            f"{trained:,} of {sum(size for size, _ in sizes):,} parameters trained; {self.precision.name}, "
            f"{self.attention} attention, on {self.device.type}"
        )


def set_up(
    base: Path,
    *,
    vocabulary: int,
    new_tokens: Sequence[str],
    sequence_len: int,
    packed: bool,
    model: Model,
    adapter: Adapter,
    training: Training,
    machine: Machine,
    goes_on_from: Path | None,
) -> Ready:
    """base: a folder with the base's weights; vocabulary: tokens of the tokenizer; new_tokens: those that params.yaml adds to it;
    goes_on_from: lora_model_dir.

    Raises ParamsError for rows longer than learned positions and for new tokens that nothing trains; ModelError where model,
    adapter, packing or attention do not fit each other.
    """
    device = device_of(machine)
    whole = adapter.adapter is None
    precision = choose(training, model, device, whole=whole)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(machine.tf32)
    dtype = precision.trained if whole else precision.frozen
    shape = model_on_meta(base)
    check_positions(shape, sequence_len)
    if not whole and goes_on_from is None:
        targets = [] if isinstance(adapter.lora_target_modules, str) else adapter.lora_target_modules
        check_new_tokens(shape, new_tokens, {name.rpartition(".")[2] for name in (*adapter.lora_modules_to_save, *targets)})
    loaded = load_model(
        base,
        machine,
        vocabulary=vocabulary,
        packed=packed,
        dtype=dtype,
        quantise=model,
        on=torch.device("cpu") if machine.fsdp or machine.deepspeed else None,  # whole it may not fit one GPU
    )
    if packed:
        self_test(loaded.model, loaded.how)
    seed_everything(training.seed)
    notes = [*loaded.notes]
    trainable = loaded.model if whole else lora.attach(loaded.model, adapter, goes_on_from, notes.append)
    if training.unfrozen_parameters:
        unfreeze(trainable, training.unfrozen_parameters)
    if machine.gradient_checkpointing:
        trainable.gradient_checkpointing_enable({"use_reentrant": False})
        trainable.enable_input_require_grads()
    if machine.torch_compile:
        notes += compile_layers(loaded, machine)
    return Ready(trainable, loaded.how, loaded.attention, precision, device, tuple(notes))


def unfreeze(model: Any, patterns: Sequence[str]) -> None:
    """Train only the parameters whose name one of the patterns matches from its beginning.

    Raises ParamsError for a pattern that is no regular expression, or that matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    matched: set[str] = set()
    for pattern in patterns:
        if re.search(r"\[\d*:\d*\]$", pattern):
            raise ParamsError(f"training.unfrozen_parameters: '{pattern}' names a range of rows; only whole parameters are trained or not")
        try:
            found = [name for name in names if re.match(pattern, name)]
        except re.error as error:
            raise ParamsError(f"training.unfrozen_parameters: '{pattern}' is no regular expression: {error}") from None
        if not found:
            raise ParamsError(f"training.unfrozen_parameters: '{pattern}' matches no parameter; one is called {names[len(names) // 2]}")
        matched.update(found)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in matched


def compile_layers(loaded: Loaded, machine: Machine) -> tuple[str, ...]:
    """Compile each decoder layer in place: they are alike, so one compilation serves all, and no name changes.

    Returns a sentence where torch.compile does not work on this machine, and compiles nothing then; raises MachineError in its place
    where machine.allow_fallback is false.
    """
    settings = {"backend": machine.torch_compile_backend, "mode": machine.torch_compile_mode}
    settings = {name: value for name, value in settings.items() if value}
    try:
        torch.compile(torch.neg, **settings)(torch.ones(2, device=loaded.model.device))
    except COMPILER_ERRORS as error:
        told = f"machine.torch_compile: does not work on this machine ({' '.join(str(error).split())[:120]})"
        if not machine.allow_fallback:
            raise MachineError(f"{told} (machine.allow_fallback is false)") from None
        return (f"{told}; the layers are not compiled",)
    kinds = set(loaded.model._no_split_modules or ())
    for module in bare(loaded.model).modules():
        if type(module).__name__ in kinds:
            module.compile(**settings)
    return ()
