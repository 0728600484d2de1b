"""The model as it is trained: loaded, quantised, with its adapter, compiled, in its precision."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peft import PeftModel

from axolotl_core.adapters import lora
from axolotl_core.attention.choose import ON_ANY_DEVICE
from axolotl_core.batches.rows import Data
from axolotl_core.errors import MachineError, ParamsError
from axolotl_core.kernels.choose import choose_loss, replace_layers, unmet
from axolotl_core.models.activations import checkpoint_layers
from axolotl_core.models.compiler import COMPILER_ERRORS
from axolotl_core.models.embeddings import embedding_rows
from axolotl_core.models.forward import ForwardSpec, unwrap
from axolotl_core.models.load import Loaded, device_of, load_model
from axolotl_core.models.precision import Precision
from axolotl_core.models.self_test import difference, self_test
from axolotl_core.models.shape import check_new_tokens, check_positions, model_on_meta
from axolotl_core.models.skeleton import BaseWeights
from axolotl_core.models.text import freeze_others, other_parts
from axolotl_core.objectives.cross_entropy import Kernel, chunk_body, head_of, kernel_difference, loss_and_slope
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine
from axolotl_core.training.config import TrainConfig
from axolotl_core.training.step import seed_everything


@dataclass(frozen=True)
class Ready:
    """A model to train, how its forward pass is run, in which precision."""

    model: Any
    spec: ForwardSpec
    attention: str
    precision: Precision
    device: torch.device
    trained_parameters: int
    """How many numbers are trained, counted before they are sharded."""
    kernel: Kernel | None = None
    """Of the loss, None for PyTorch."""
    offload: bool = False
    """Whether activations are kept in the machine's memory."""
    weights: BaseWeights | None = None
    """What the model's modules are filled with as they are sharded; None where it has its weights."""
    notes: tuple[str, ...] = ()
    """Sentences about preferences of the machine section that were not met."""

    def summary(self) -> str:
        """What is trained, and in what, as a line for the user."""
        total = sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in self.model.parameters())
        return (
            f"{self.trained_parameters:,} of {total:,} parameters trained; {self.precision.name}, "
            f"{self.attention} attention, on {self.device.type}"
        )


def check_shape(base: Path, data: Data, adapter: Adapter, initial_adapter: Path | None) -> Any:
    """What the base's config alone says: how long rows may be, and whether new tokens are trained; the model on the meta device.

    Raises ParamsError for rows longer than its positions and for new tokens that nothing trains.
    """
    shape = model_on_meta(base)
    check_positions(shape, data.train.sequence_len)
    if adapter.adapter is not None and initial_adapter is None:
        targets = [] if isinstance(adapter.lora_target_modules, str) else adapter.lora_target_modules
        check_new_tokens(shape, data.new_tokens, {name.rpartition(".")[2] for name in (*adapter.lora_modules_to_save, *targets)})
    return shape


def set_up(base: Path, data: Data, config: TrainConfig, initial_adapter: Path | None, precision: Precision, *, empty: bool) -> Ready:
    """base: a folder with the base's weights; initial_adapter: lora_model_dir; empty: the model is filled when it is sharded.

    Raises ModelError where model, adapter, packing or attention do not fit each other.
    """
    adapter, training, machine = config.adapter, config.training, config.machine
    device, full = device_of(machine), adapter.adapter is None
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(machine.tf32)
    loaded = load_model(
        base,
        machine,
        vocabulary=embedding_rows(data.tokenizer.size, config.model),
        packed=data.packed,
        dtype=precision.trained if full else precision.frozen,
        quantise=config.model,
        autocast=precision.autocast,
        on=torch.device("cpu") if machine.fsdp or machine.deepspeed else None,  # unsharded it may not fit one GPU
        empty=empty,
    )
    here = loaded.weights is None and loaded.model.device.type == device.type
    if loaded.weights is None and data.packed and (here or loaded.attention in ON_ANY_DEVICE):  # else a small model has shown it
        self_test(loaded.model, loaded.spec, precision.autocast, eager=not loaded.compared)
    changed = partial(difference, loaded.model, loaded.spec, precision.autocast) if here else _unseen
    notes = [*loaded.notes, *unmet(machine, loaded.need), *replace_layers(loaded.model, machine, loaded.need, changed)]
    seed_everything(training.seed)
    model = loaded.model if full else with_adapter(loaded, adapter, precision, initial_adapter, notes.append)
    freeze_others(loaded.model)
    if training.unfrozen_parameters:
        unfreeze(model, training.unfrozen_parameters)
    if parts := [
        name for name in other_parts(loaded.model) if not any(p.requires_grad for p in unwrap(model).get_submodule(name).parameters())
    ]:
        notes.append(f"the text part is trained; {', '.join(parts)} stay as they are, and are exported with it")
    if machine.gradient_checkpointing:
        checkpoint_layers(model, selective=machine.gradient_checkpointing == "selective")
    if machine.torch_compile:
        notes += compile_layers(loaded.model, machine, device)
    kernel, unlike = choose_loss(machine, loaded.need, partial(unlike_pytorch, model, loaded.spec, precision.autocast, device))
    notes += unlike
    if chunk_body(device.type) is loss_and_slope and device.type == "cuda":
        notes.append("the loss is not compiled: torch.compile does not work on this machine; it takes more time and the same memory")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    offload = bool(machine.activation_offloading) or machine.gradient_checkpointing == "offload"
    return Ready(
        model,
        loaded.spec,
        loaded.attention,
        precision,
        device,
        trained,
        kernel,
        offload and device.type != "cpu",
        loaded.weights,
        tuple(notes),
    )


def with_adapter(
    loaded: Loaded, adapter: Adapter, precision: Precision, initial_adapter: Path | None, tell: Callable[[str], None]
) -> PeftModel:
    """The model with an adapter, fresh or of a folder, as it is trained in this precision. tell, and what is raised: as in lora.attach."""
    brought = lora.stored_names(initial_adapter) if loaded.weights and initial_adapter else set()
    model = lora.attach(loaded.model, adapter, initial_adapter, tell, brought=brought)
    if loaded.weights and initial_adapter:
        loaded.weights.keep(name for name, _ in model.named_parameters() if lora.file_name(name) in brought)
    elif loaded.weights and adapter.peft_use_dora:
        loaded.weights.adapt = lora.init_magnitude
    elif adapter.peft_use_dora and initial_adapter is None:
        for layer in lora.layers(model).values():  # in fp32, as there, while peft rounds them to the dtype of the base
            lora.init_magnitude(layer)
    if precision.autocast:
        lora.leave_casts_to_autocast(model)
    else:
        lora.cast_saved_modules(model, precision.frozen)
    return model


def _unseen(change: Callable[[], object]) -> None:
    """For a model that is not on its device yet, whose modules were compared one by one."""
    change()


def unlike_pytorch(model: Any, spec: ForwardSpec, autocast: torch.dtype | None, device: torch.device, kernel: ModuleType) -> str | None:
    """How a kernel of the loss is another than PyTorch, None where it is not."""
    if not spec.split:
        return f"{type(unwrap(model)).__name__} does more to its logits than its output layer"
    if head_of(model).weight.requires_grad and (reason := getattr(kernel, "FROZEN_ONLY", None)):
        return str(reason)
    return kernel_difference(model, autocast, device, kernel.loss_sum)


def unfreeze(model: Any, patterns: Sequence[str]) -> None:
    """Train only the parameters whose name one of the patterns matches from its beginning.

    Raises ParamsError for a pattern that is not a regular expression, or that matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    matched: set[str] = set()
    for pattern in patterns:
        if re.search(r"\[\d*:\d*\]$", pattern):
            raise ParamsError(
                f"training.unfrozen_parameters: '{pattern}' names a range of rows; a parameter is trained as a whole or not at all"
            )
        try:
            found = [name for name in names if re.match(pattern, name)]
        except re.error as error:
            raise ParamsError(f"training.unfrozen_parameters: '{pattern}' is not a regular expression: {error}") from None
        if not found:
            raise ParamsError(f"training.unfrozen_parameters: '{pattern}' matches no parameter; one is called {names[len(names) // 2]}")
        matched.update(found)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in matched


def compile_layers(model: Any, machine: Machine, device: torch.device) -> tuple[str, ...]:
    """Compile each decoder layer in place: they are alike, so one compilation serves all, and no name changes. With gradient
    checkpointing what is computed again is compiled, for around it a compiler gives up.

    Returns a sentence where torch.compile does not work on this machine, and compiles nothing then; raises MachineError in its place
    where machine.allow_fallback is false.
    """
    settings = {"backend": machine.torch_compile_backend, "mode": machine.torch_compile_mode}
    settings = {name: value for name, value in settings.items() if value}
    try:
        torch.compile(torch.neg, **settings)(torch.ones(2, device=device))
    except COMPILER_ERRORS as error:
        message = f"machine.torch_compile: does not work on this machine ({' '.join(str(error).split())[:120]})"
        if not machine.allow_fallback:
            raise MachineError(f"{message} (machine.allow_fallback is false)") from None
        return (f"{message}; the layers are not compiled",)
    compiled = cache(partial(torch.compile, **settings))
    kinds = set(model._no_split_modules or ())
    for module in model.modules():
        if type(module).__name__ in kinds:
            if getattr(module, "gradient_checkpointing", False):
                module._gradient_checkpointing_func = partial(_checkpoint_compiled, module._gradient_checkpointing_func, compiled)
            else:
                module.compile(**settings)
    return ()


def _checkpoint_compiled(checkpoint: Callable[..., Any], compiled: Callable[..., Any], forward: partial, *args: Any) -> Any:
    """In the place of a layer's checkpoint function: forward, which transformers binds to the layer, is compiled."""
    return checkpoint(partial(compiled(forward.func), *forward.args, **forward.keywords), *args)
