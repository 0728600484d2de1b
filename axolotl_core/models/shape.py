"""What a base model is like, from its config alone: asked before any weight is read."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from axolotl_core.errors import ModelError, ParamsError, foreign
from axolotl_core.models.positions import longest, remedy
from axolotl_core.params.model import RopeScaling


def model_on_meta(folder: Path) -> Any:
    """The model of a folder without weights (device meta). Raises ModelError where transformers does not know it."""
    with foreign(lambda message: ModelError(f"{folder}: transformers does not know this model: {message}")):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def check_positions(model: Any, sequence_len: int, scaling: RopeScaling | None = None) -> None:
    """Raises ParamsError where rows are longer than the model's positions: a table of learned (GPT-2, OPT) or sinusoidal ones (GPT-J) has
    no row for more, and rotary ones were never trained there.

    scaling: of rotary positions, that the config has not yet.
    """
    kind, last = type(model).__name__, longest(model.config, scaling)
    if last is not None and sequence_len > last:
        also = f", or model.rope_scaling: {scaled}" if (scaled := remedy(model.config, sequence_len)) else ""
        raise ParamsError(
            f"packing.sequence_len is {sequence_len}, but {kind} has rotary positions for {last} tokens; set it to {last} or less{also}"
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None or sequence_len <= limit:
        return
    words = model.get_input_embeddings()
    tables = {name: len(m.weight) for name, m in model.named_modules() if isinstance(m, nn.Embedding) and m is not words}
    tables |= {name: len(buffer) for name, buffer in model.named_buffers() if name.endswith(".embed_positions")}
    if found := [name for name, rows in tables.items() if limit <= rows <= limit + 8]:  # OPT has two more
        raise ParamsError(
            f"packing.sequence_len is {sequence_len}, but {kind} has a table of {limit} positions ({found[0]}); set it to {limit} or less"
        )


def check_new_tokens(model: Any, new: Sequence[str], trained: Collection[str]) -> None:
    """Raises ParamsError where tokens are new to the model and an adapter leaves their rows as they are.

    new: texts of the tokens that params.yaml adds; trained: last names of the modules that the adapter trains.
    """
    if not new:
        return
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    needed = [names[id(words)]]
    if head is not None and not model.config.tie_word_embeddings:
        needed.append(names[id(head)])
    if missing := [name for name in needed if name not in trained]:
        shown = ", ".join(f"'{token}'" for token in new[:3]) + (", …" if new[3:] else "")
        raise ParamsError(
            f"adapter.lora_modules_to_save: the section tokenizer adds {shown}, and {' and '.join(missing)} would stay frozen, so the "
            f"model could neither tell new tokens apart nor write them; set lora_modules_to_save: [{', '.join(needed)}], or add no token"
        )
