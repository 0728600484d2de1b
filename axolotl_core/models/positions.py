"""How long a row may be for a model with rotary positions, and `model.rope_scaling`, which changes that.

What it changes is written into the config of base/: whatever loads the base has it (train, evaluate, merge), and so has what is
exported. Sources: linear, kaiokendev.github.io/til and arXiv 2306.15595; dynamic, arXiv 2309.00071 section 3.3; yarn, arXiv 2309.00071;
llama3, the config of Llama 3.1. The rotations themselves are transformers'.
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from axolotl_core.errors import ParamsError
from axolotl_core.params.model import RopeScaling

STRETCHED = ("linear", "dynamic")
"""Types whose config keeps the length that the model was trained on."""
OF_BASE = ("rope_theta", "partial_rotary_factor")
"""What stays of the base's own rotary positions; a scaling that it has gives way."""
WHOLE = "full_attention"
"""Type of the layers that are scaled, where each type has positions of its own (Gemma 3)."""


def changes(config: Any, scaling: RopeScaling) -> dict[str, Any]:
    """What becomes of the config of a (text) model: {"rope_parameters": …, "max_position_embeddings": …}.

    Raises ParamsError for a model without rotary positions.
    """
    text = config.get_text_config()
    rope = _rotary(text)
    if not rope:
        raise ParamsError(f"model.rope_scaling: a {config.model_type} has no rotary positions that could be scaled; remove it")
    own = rope.get(WHOLE, rope)
    length = own.get("original_max_position_embeddings") or text.max_position_embeddings
    given = scaling.identity()
    new = {name: own[name] for name in OF_BASE if name in own} | given
    if scaling.rope_type not in STRETCHED:
        new.setdefault("original_max_position_embeddings", length)
        length = int(new["original_max_position_embeddings"] * scaling.factor)
    if scaling.rope_type == "llama3":
        new = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} | new
    return {"rope_parameters": rope | {WHOLE: new} if own is not rope else new, "max_position_embeddings": length}


def _rotary(text: Any) -> dict[str, Any]:
    """rope_parameters of a model that uses them; falcon-rw has them beside its ALiBi."""
    return {} if getattr(text, "alibi", False) else getattr(text, "rope_parameters", None) or {}


def scale(folder: Path, scaling: RopeScaling) -> None:
    """Write it into a model's config.json. Raises ParamsError for a model without rotary positions."""
    file = folder / "config.json"
    config, written = AutoConfig.from_pretrained(folder, trust_remote_code=False), json.loads(file.read_text(encoding="utf-8-sig"))
    part = written if config.get_text_config() is config else written["text_config"]
    part.pop("rope_scaling", None)
    part |= changes(config, scaling)
    file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def longest(config: Any, scaling: RopeScaling | None = None) -> int | None:
    """Tokens of the longest row that the model's rotary positions are made for; None where it has others.

    scaling: that the config has not yet.
    """
    text = config.get_text_config()
    rope, length = _rotary(text), getattr(text, "max_position_embeddings", None)
    if not rope or length is None:
        return None
    if scaling:
        changed = changes(config, scaling)
        rope, length = changed["rope_parameters"], changed["max_position_embeddings"]
    own = rope.get(WHOLE, rope)
    return int(length * own["factor"]) if own.get("rope_type") in STRETCHED else int(length)
