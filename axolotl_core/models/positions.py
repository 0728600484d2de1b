"""How long a row may be for a model with rotary positions, and `model.rope_scaling`, which changes that.

What it changes is written into the config of base/: whatever loads the base has it (train, evaluate, merge), and so has what is
exported. Sources: linear, kaiokendev.github.io/til and arXiv 2306.15595; dynamic, arXiv 2309.00071 section 3.3; yarn, arXiv 2309.00071;
llama3, the config of Llama 3.1. The rotations themselves are transformers'.
"""

import copy
import json
import math
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from axolotl_core.errors import ParamsError, foreign
from axolotl_core.params.model import RopeScaling

STRETCHED = ("linear", "dynamic")
"""Types whose config keeps the length that the model was trained on."""
OF_SCALING = ("type", "rope_type", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow")
OF_SCALING += ("low_freq_factor", "high_freq_factor", "short_factor", "long_factor")
"""What a scaling that the base has brought, and gives way; the rest is the model's own (rope_theta, DeepSeek's mscale)."""
WHOLE = "full_attention"
"""Type of the layers that are scaled, where each type has positions of its own (Gemma 3)."""


def changes(config: Any, scaling: RopeScaling) -> dict[str, Any]:
    """What becomes of the config of a (text) model: {"rope_parameters": …, "max_position_embeddings": …}.

    Raises ParamsError for a model without rotary positions, and for one that does not take this scaling.
    """
    text = config.get_text_config()
    rope = _rotary(text)
    if not rope:
        raise ParamsError(f"model.rope_scaling: a {config.model_type} has no rotary positions that could be scaled; remove it")
    own = _scaled_part(rope)
    length = _trained_length(text)
    if own is None or length is None:
        raise ParamsError(f"model.rope_scaling: layers of a {config.model_type} have positions of different kinds; remove it")
    new = {name: value for name, value in own.items() if name not in OF_SCALING} | scaling.identity()
    if scaling.rope_type not in STRETCHED:
        new.setdefault("original_max_position_embeddings", length)
        length = int(new["original_max_position_embeddings"] * scaling.factor)
    elif "original_max_position_embeddings" in own:  # some models read it whatever the type (Ministral 3)
        new["original_max_position_embeddings"] = own["original_max_position_embeddings"]
    if scaling.rope_type == "llama3":
        new = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} | new
    changed = {"rope_parameters": new if own is rope else rope | {WHOLE: new}, "max_position_embeddings": length}
    with foreign(lambda message: ParamsError(f"model.rope_scaling: a {config.model_type} does not take it: {message}")):
        type(text).from_dict(copy.deepcopy(text.to_dict() | changed))
    return changed


def _rotary(text: Any) -> dict[str, Any]:
    """rope_parameters of a model that uses them; falcon-rw has them beside its ALiBi, Zamba 2 and Granite hybrids beside none."""
    unused = getattr(text, "alibi", False) or not getattr(text, "use_mem_rope", True)
    unused = unused or getattr(text, "position_embedding_type", "rope") not in ("rope", None)
    return {} if unused else getattr(text, "rope_parameters", None) or {}


def _scaled_part(rope: dict[str, Any]) -> dict[str, Any] | None:
    """Of rope_parameters what is scaled; None where layers of several types have none that sees all of a row."""
    if all(value is not None and not isinstance(value, dict) for value in rope.values()):
        return rope
    found = rope.get(WHOLE)
    return found if isinstance(found, dict) else None


def _trained_length(text: Any) -> int | None:
    """Tokens that the base was trained on before any scaling."""
    own = _scaled_part(_rotary(text)) or {}
    found = own.get("original_max_position_embeddings") or getattr(text, "max_position_embeddings", None)
    return None if found is None else int(found)


def scale(folder: Path, scaling: RopeScaling) -> None:
    """Write it into a model's config.json. Raises ParamsError as `changes` does."""
    file = folder / "config.json"
    config, written = AutoConfig.from_pretrained(folder, trust_remote_code=False), json.loads(file.read_text(encoding="utf-8-sig"))
    part = written if config.get_text_config() is config else written["text_config"]
    part.pop("rope_scaling", None)
    part |= changes(config, scaling)
    file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def longest(config: Any, scaling: RopeScaling | None = None) -> int | None:
    """Tokens of the longest row that the model's rotary positions are made for; None where it has others.

    scaling: that the config has not yet. Raises ParamsError as `changes` does.
    """
    text = config.get_text_config()
    own, length = _scaled_part(_rotary(text)), getattr(text, "max_position_embeddings", None)
    if scaling:
        changed = changes(config, scaling)
        own, length = _scaled_part(changed["rope_parameters"]), changed["max_position_embeddings"]
    if not own or length is None:
        return None
    before = length if own.get("rope_type") in STRETCHED else own.get("original_max_position_embeddings") or 0
    return max(int(length), int(before * (own.get("factor") or 1)))


def remedy(config: Any, sequence_len: int) -> str | None:
    """The scaling with which rows may be so long, as it is written in params.yaml; None where the model takes none."""
    length = _trained_length(config.get_text_config())
    if length is None:
        return None
    factor = math.ceil(sequence_len / length)
    try:
        changes(config, RopeScaling(rope_type="yarn", factor=factor))
    except ParamsError:
        return None
    return f"{{rope_type: yarn, factor: {factor}}}"


def rewind(model: Any) -> None:
    """Forget the lengths of rows before this batch: under `dynamic` transformers keeps the rotations of the longest so far, so that a
    row's logits would depend on what was run before it, and a resumed run would go on otherwise."""
    own = _scaled_part(_rotary(model.config.get_text_config())) or {}
    if own.get("rope_type") != "dynamic":
        return
    for module in model.modules():
        for name in [name for name in module._buffers if name.endswith("inv_freq") and "original" not in name]:
            prefix = name.removesuffix("inv_freq")
            original = getattr(module, f"{prefix}original_inv_freq", None)
            if original is not None and hasattr(module, "original_max_seq_len"):
                module.register_buffer(name, original.to(getattr(module, name).device), persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
