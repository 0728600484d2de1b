"""The base model in memory."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from axolotl_core import world
from axolotl_core.attention.choose import choose
from axolotl_core.attention.need import Need
from axolotl_core.errors import MachineError, ModelError, foreign, one_line
from axolotl_core.models import quiet  # noqa: F401
from axolotl_core.models.embeddings import grow_embeddings
from axolotl_core.models.family import of_family
from axolotl_core.models.forward import ForwardSpec, is_spread
from axolotl_core.models.packing import packing_support
from axolotl_core.models.quantize import keep_quantised, settings_of, untrue
from axolotl_core.models.self_test import attention_of, self_test, small_model, splits
from axolotl_core.models.skeleton import BaseWeights, skeleton
from axolotl_core.models.weights import complete
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model


@dataclass(frozen=True)
class Loaded:
    """A model, how it is run, what its attention and kernels have to fit, and sentences about preferences that were not met."""

    model: PreTrainedModel
    spec: ForwardSpec
    need: Need
    compared: bool = False
    """Whether its attention was compared with eager attention, on a small model."""
    notes: tuple[str, ...] = ()
    weights: BaseWeights | None = None
    """What the model's modules are to be filled with; None where it has its weights."""

    @property
    def attention(self) -> str:
        """Its kind of attention."""
        return attention_of(self.model)


def device_of(machine: Machine) -> torch.device:
    """The device asked for, or the best there is. Raises MachineError for one that this machine lacks."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if machine.device != "auto":
        if not there[machine.device]:
            raise MachineError(f"machine.device is {machine.device}, which this machine does not have; set it to auto or cpu")
        return _own_gpu() if machine.device == "cuda" else torch.device(machine.device)
    if torch.cuda.is_available():
        return _own_gpu()
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _own_gpu() -> torch.device:
    """Of this process, when torchrun has started several; and the current one, which triton launches kernels on."""
    device = torch.device("cuda", world.local_rank())
    torch.cuda.set_device(device)
    return device


def load_model(
    weights: Path,
    machine: Machine,
    *,
    vocabulary: int,
    packed: bool,
    dtype: torch.dtype | None = None,
    quantise: Model | None = None,
    on: torch.device | None = None,
    empty: bool = False,
    autocast: torch.dtype | None = None,
    spread: bool = False,
) -> Loaded:
    """Weights of a folder on the machine's device, or where `on` says; dtype None keeps that of the files.

    vocabulary: rows that the embeddings have at least (`embedding_rows`); they grow, and never shrink. quantise: as this section asks
    for. autocast: of the forward pass. empty: the model comes without its weights, and `weights` beside it, unless no small model of its
    kind can be made, on which it is tried. spread: a quantised model is only to be run, and may fill several GPUs one after the other.

    packed: before the weights are read, a small random model of the family shows that samples of a row stay apart.
    Raises ModelError: not a causal language model, a family that cannot be packed, an attention that does not fit.
    """
    with foreign(lambda message: ModelError(f"{weights}: transformers does not know this model: {message}")):
        config = AutoConfig.from_pretrained(weights, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"{weights}: got a model of type '{config.model_type}', wanted one that transformers runs as a causal language model"
        )
    device = device_of(machine)
    support = packing_support(config)
    if packed and support.method is None:
        raise ModelError(f"{support.reason}; set packing.sample_packing: false")
    need = need_of(config, device, autocast or dtype, packed=packed)
    attention, note = choose(machine, need)
    spec = ForwardSpec(support.method or "positions")
    smaller = settings_of(quantise, config, compute=dtype or torch.float32)
    small = small_model(config, attention, device, torch.float32 if autocast else need.dtype) if packed or empty else None
    if small is not None:
        small.config.use_cache = False
        if packed:
            comparable = (autocast or small.dtype) == torch.float32 or not of_family(config, "ROUTING_JUMPS", False)
            self_test(small, spec, autocast, eager=comparable, backward=True)
    if empty and small is not None:
        model = skeleton(weights, config, attention, need.dtype if dtype is None else dtype)
        model.config.use_cache = False
        filled_by = BaseWeights(weights, model, vocabulary)
        return Loaded(model, replace(spec, split=splits(small, spec)), need, True, tuple(note for note in (note,) if note), filled_by)
    settings: dict[str, Any] = {
        "dtype": dtype or "auto",
        "attn_implementation": attention,
        # each weight is read to its place, for processes of one machine would fill its memory with a model each
        "device_map": "sequential" if smaller and spread and device.type == "cuda" else {"": device if smaller else on or device},
    }
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            weights, trust_remote_code=False, output_loading_info=True, **settings, **smaller
        )
    except ValueError as error:
        if settings["device_map"] != "sequential":
            raise
        raise MachineError(f"{weights}: the quantised model does not fit the GPUs: {one_line(error)}") from None
    if not smaller:
        complete(str(weights), report)
    model.config.use_cache = False
    if smaller:
        keep_quantised(model)
    grow_embeddings(model, vocabulary)
    notes = [note for note in (note, untrue(quantise, config)) if note]
    return Loaded(model, replace(spec, split=not is_spread(model) and splits(model, spec)), need, small is not None, tuple(notes))


def need_of(config: Any, device: torch.device, dtype: torch.dtype | None, *, packed: bool) -> Need:
    """What a model of this config needs of its attention. dtype: of the forward pass, None for that of the files."""
    stored = getattr(config, "dtype", None)
    dtype = dtype or (getattr(torch, stored) if isinstance(stored, str) else stored) or torch.float32
    support = packing_support(config)
    return Need(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, device, dtype, packed, support.method, support.passes_on)
