"""The model as it is trained: loaded, quantised, with its adapter, compiled, in its number formats."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from axolotl_core.adapters import lora
from axolotl_core.models.load import Loaded, device_of, load_model
from axolotl_core.models.packing import How, bare, self_test
from axolotl_core.models.shape import check_new_tokens, check_positions, model_on_meta
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.training import Training
from axolotl_core.training.precision import Precision, choose
from axolotl_core.training.step import seed_everything


@dataclass(frozen=True)
class Ready:
    """A model to train, how it is run, in which formats."""

    model: Any
    how: How
    attention: str
    precision: Precision
    device: torch.device

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
        check_new_tokens(
            shape, new_tokens, {name.rpartition(".")[2] for name in (*adapter.lora_modules_to_save, *adapter.lora_target_modules)}
        )
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
    trainable = loaded.model if whole else lora.attach(loaded.model, adapter, goes_on_from)
    if machine.gradient_checkpointing:
        trainable.gradient_checkpointing_enable({"use_reentrant": False})
        trainable.enable_input_require_grads()
    if machine.torch_compile:
        compile_layers(loaded, machine.torch_compile_backend)
    return Ready(trainable, loaded.how, loaded.attention, precision, device)


def compile_layers(loaded: Loaded, backend: str | None) -> None:
    """Compile each decoder layer in place: they are alike, so one compilation serves all, and no name changes."""
    kinds = set(loaded.model._no_split_modules or ())
    for module in bare(loaded.model).modules():
        if type(module).__name__ in kinds:
            module.compile(**({"backend": backend} if backend else {}))
