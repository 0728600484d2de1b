"""`adapter`: what is trained. An edit re-runs at most train onward."""

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core.params.conflict import Conflict
from axolotl_core.params.section import Section, Supported


class Adapter(Section):
    """What is trained: all weights (`adapter` unset) or a small addition to them."""

    adapter: Annotated[Literal["lora", "qlora", "llama-adapter"] | None, Supported("lora", "qlora")] = None
    """`lora`, `qlora` (LoRA on a base of 4 bit), or unset for a full fine-tune."""
    lora_model_dir: str | None = None
    """Resume from the adapter in this folder; its rank and targets hold, those given here must be the same or unset."""
    lora_r: Annotated[int, Field(ge=1)] = 8
    """Rank of the update (Hu et al. 2021, arXiv 2106.09685)."""
    lora_alpha: Annotated[float | int, Field(gt=0)] = 16
    """The update is scaled by lora_alpha / lora_r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the update, while training."""
    lora_target_modules: list[str] | str = []
    """Names of the modules that get an update, or one regular expression that matches whole names; empty together with
    lora_target_linear: the family's usual ones."""
    lora_target_linear: bool = False
    """Every linear module but the output layer."""
    lora_modules_to_save: list[str] = []
    """Modules trained in full beside the updates, embeddings for instance when tokens were added."""
    lora_rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Other ranks than lora_r: the end of a module's name, or a regular expression for it → rank."""
    lora_alpha_pattern: dict[str, Annotated[float | int, Field(gt=0)]] = {}
    """The same for lora_alpha."""
    peft_layers_to_transform: list[Annotated[int, Field(ge=0)]] = []
    """Numbers of the decoder layers that get updates, from 0; empty: all."""
    lora_fan_in_fan_out: bool = False
    """The weights lie transposed (Conv1D of GPT-2); peft sees to it by itself."""
    peft_use_dora: bool = False
    """DoRA: magnitude and direction of the weights apart (Liu et al. 2024, arXiv 2402.09353)."""
    peft_use_rslora: bool = False
    """Scale the update by lora_alpha / √lora_r (Kalajdzievski 2023, arXiv 2312.03732)."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0)] | None = None
    """LoRA+: learning rate of the B matrices over that of the A matrices (Hayou et al. 2024, arXiv 2402.12354), say 16."""
    loraplus_lr_embedding: Annotated[float, Field(gt=0)] | None = None
    """LoRA+: learning rate of updates of embeddings; unset: 1e-6."""
    relora_steps: Annotated[int, Field(ge=1)] | None = None
    """ReLoRA (Lialin et al. 2023, arXiv 2307.05695): every so many steps the update is merged into the base and reinitialised."""
    relora_warmup_steps: Annotated[int, Field(ge=0)] = 10
    """ReLoRA: steps of warmup after each merge."""
    relora_prune_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """ReLoRA: share of the optimizer's state that a merge sets to zero, the smallest first; 1 resets it."""
    relora_cpu_offload: bool = False
    """ReLoRA: merge on the CPU, which needs less memory on the GPU."""
    peft_adapter: Annotated[dict[str, Any] | None, Supported()] = None
    """Settings of llama-adapter."""


def _is_name(adapter: Adapter) -> bool:
    """Whether lora_target_modules, a regular expression where it is text, looks like a module's name."""
    targets = adapter.lora_target_modules
    return isinstance(targets, str) and re.fullmatch(r"[\w.-]+", targets) is not None


CONFLICTS = (
    Conflict(
        "lora_target_modules",
        _is_name,
        "lora_target_modules: '{lora_target_modules}' is not a regular expression that matches whole names; write it in brackets, "
        "[{lora_target_modules}]",
    ),
    Conflict(
        "lora_target_linear",
        lambda a: isinstance(a.lora_target_modules, str) and a.lora_target_linear and not _is_name(a),
        "lora_target_linear is set beside a regular expression in lora_target_modules; remove one",
    ),
    Conflict(
        "peft_layers_to_transform",
        lambda a: isinstance(a.lora_target_modules, str) and bool(a.peft_layers_to_transform) and not _is_name(a),
        "peft_layers_to_transform is set beside a regular expression in lora_target_modules, which can name the layers itself; remove one",
    ),
    Conflict(
        "{option}",
        lambda a: {} if a.adapter else {option: value for option, value in a.identity().items() if option != "adapter" and value},
        "{option} does nothing without an adapter; set adapter: lora or remove it",
    ),
    Conflict(
        "lora_model_dir",
        lambda a: a.lora_model_dir is not None and PurePath(a.lora_model_dir).parts[:2] == ("artifacts", "adapter"),
        "lora_model_dir is artifacts/adapter, which train itself replaces, so every run would start another; copy the folder and "
        "name the copy",
    ),
)
