"""`model`: the base model. An edit re-runs at most fetch-model and fetch-tokenizer (both small) and train onward."""

from typing import Annotated, Any

from pydantic import Field

from axolotl_core.params.conflict import Conflict
from axolotl_core.params.section import Section, Supported


class Model(Section):
    """The base model."""

    base_model: Annotated[str, Field(min_length=1)]
    """A hub repository, a folder, a `.gguf` file, or `package:NAME/FILE` for a file inside an installed package."""
    base_model_config: Annotated[str | None, Supported()] = None
    """Where the model's config.json comes from; a flat YAML that names base_model here once more is understood."""
    base_model_ignore_patterns: str | list[str] | None = None
    """Files of the hub repository that are not to be downloaded; a folder on this machine is read as it is."""
    model_revision: str | None = None
    """Branch, tag or commit of the hub repository."""
    model_type: str = "AutoModelForCausalLM"
    """Class in transformers. The one that the model's own config names is taken; another causal language model here is reported."""
    trust_remote_code: bool = False
    """No code of a model's repository is run, whatever this says: transformers has a class of its own for nearly all families."""
    resize_token_embeddings_to_32x: bool = False
    """Grow the embeddings to a multiple of 32 rows."""
    rope_scaling: Annotated[dict[str, Any] | None, Supported()] = None
    """`{type: linear | dynamic, factor: 2.0}`."""
    xpos_rope: Annotated[bool, Supported()] = False
    """xPos rotary embedding."""
    landmark_attention: Annotated[bool, Supported()] = False
    """Landmark attention."""
    load_in_8bit: bool = False
    """Quantise the base to 8 bit (bitsandbytes, LLM.int8); requires an adapter."""
    load_in_4bit: bool = False
    """Quantise the base to 4 bit (bitsandbytes, nf4, double quantisation); requires an adapter."""
    bfloat16: bool = False
    """Weights in bfloat16, no autocast."""
    float16: bool = False
    """Weights in float16, no autocast."""
    gptq: bool = False
    """The base's weights are quantised with GPTQ (package gptqmodel); requires adapter: lora."""
    gptq_groupsize: int | None = None
    """Group size of the GPTQ checkpoint, which says it itself; another one is an error."""
    gptq_model_v1: bool | None = None
    """Whether the GPTQ checkpoint has format 1, which it says itself; another one is an error."""
    gptq_disable_exllama: bool | None = None
    """The exllama kernels have no backward pass and are never used; both values are the same."""


def quantised_by(model: Model) -> list[str]:
    """Options that are set and quantise the base."""
    return [option for option in ("load_in_8bit", "load_in_4bit", "gptq") if getattr(model, option)]


CONFLICTS = (
    Conflict(
        "{option}",
        lambda m: {quantised_by(m)[1]: " and ".join(quantised_by(m))} if len(quantised_by(m)) > 1 else {},
        "{value} are both true; a base is quantised in one way, keep one",
    ),
)
