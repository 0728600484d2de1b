"""`adapter`: what is trained. An edit re-runs train onward."""

from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section


class Adapter(Section):
    """What is trained: all weights (`adapter` unset) or a small addition to them."""

    adapter: Annotated[Literal["lora", "qlora", "llama-adapter"] | None, Built("lora")] = None
    """`lora`, or unset for a full fine-tune."""
    lora_model_dir: Annotated[str | None, Built()] = None
    """Go on from the adapter in this folder."""
    lora_r: Annotated[int, Field(ge=1)] = 8
    """Rank of the update (Hu et al. 2021, arXiv 2106.09685)."""
    lora_alpha: Annotated[float | int, Field(gt=0)] = 16
    """The update is scaled by lora_alpha / lora_r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in front of the update, while training."""
    lora_target_modules: list[str] = []
    """Names of the modules that get an update; empty together with lora_target_linear: the family's usual ones."""
    lora_target_linear: bool = False
    """Every linear module but the output layer."""
    lora_modules_to_save: list[str] = []
    """Modules trained whole beside the updates, embeddings for instance when tokens were added."""
    lora_fan_in_fan_out: bool = False
    """The weights lie transposed (Conv1D of GPT-2); peft sees to it by itself."""
    relora_steps: Annotated[int | None, Built()] = None
    """Steps between merges of ReLoRA."""
    relora_warmup_steps: Annotated[int, Built()] = 10
    """Warmup after each merge."""
    relora_cpu_offload: Annotated[bool, Built()] = False
    """Merge on the CPU."""
    peft_adapter: Annotated[dict[str, Any] | None, Built()] = None
    """Settings of llama-adapter."""
