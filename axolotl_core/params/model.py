"""`model`: the base model. An edit re-runs at most fetch-model and fetch-tokenizer (both small) and train onward."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, model_validator

from axolotl_core.params.conflict import Conflict
from axolotl_core.params.section import Section, Supported


class RopeScaling(Section):
    """`rope_scaling:` as a mapping (models/positions.py reads it)."""

    @model_validator(mode="before")
    @classmethod
    def _both_spellings(cls, given: Any) -> Any:
        """Configs of models have `type` and `rope_type`, which say the same."""
        both = isinstance(given, dict) and given.get("type") == given.get("rope_type")
        return {name: value for name, value in given.items() if name != "type"} if both else given

    rope_type: Annotated[Literal["linear", "dynamic", "yarn", "llama3"], Field(validation_alias=AliasChoices("rope_type", "type"))]
    """Also `type`. `linear` divides positions by the factor; `dynamic` turns slower in a batch
    with a row longer than the base's, so that other rows beside it (machine.micro_batch_size) give other numbers; `yarn` and `llama3`
    (Llama 3.1) slow down long waves alone, and say in the exported config how long rows may be now."""
    factor: Annotated[float, Field(ge=1)]
    """How many times longer rows may be than the base was trained on."""
    original_max_position_embeddings: Annotated[int, Field(ge=1)] | None = None
    """Tokens that the base was trained on (yarn, llama3); unset: what its config says."""
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    """Base of the rotations; unset: the model's."""
    attention_factor: Annotated[float, Field(gt=0)] | None = None
    """yarn: what scores are multiplied by; unset: 0.1 ln(factor) + 1."""
    beta_fast: Annotated[float, Field(gt=0)] | None = None
    """yarn: turns in the trained length from which a wave is left as it is; unset: 32."""
    beta_slow: Annotated[float, Field(gt=0)] | None = None
    """yarn: turns up to which a wave is stretched by all of the factor; unset: 1."""
    low_freq_factor: Annotated[float, Field(gt=0)] | None = None
    """llama3: trained length over the wavelength from which waves are stretched by all of the factor; unset: 1."""
    high_freq_factor: Annotated[float, Field(gt=0)] | None = None
    """llama3: the same, up to which they are left as they are; unset: 4."""


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
    rope_scaling: RopeScaling | None = None
    """Other rotary positions than the base's, for longer rows, as a mapping: `{rope_type: yarn, factor: 4.0}`."""
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


READ_BY = {
    "linear": ("rope_theta",),
    "dynamic": ("rope_theta",),
    "yarn": ("rope_theta", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
    "llama3": ("rope_theta", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
"""Type of rope_scaling → what it reads beside the factor."""


def _unread(scaling: RopeScaling | None) -> dict[str, str]:
    """Options of a scaling that its type does not read."""
    given = scaling.identity() if scaling else {}
    read = (*READ_BY[given["rope_type"]], "rope_type", "factor") if given else ()
    return {option: given["rope_type"] for option in given if option not in read}


CONFLICTS = (
    Conflict("rope_scaling", lambda m: _unread(m.rope_scaling), "rope_scaling: {option} means nothing to the type {value}; remove it"),
    Conflict(
        "rope_scaling",
        lambda m: m.rope_scaling is not None and (m.rope_scaling.low_freq_factor or 1) >= (m.rope_scaling.high_freq_factor or 4),
        "rope_scaling: high_freq_factor (unset: 4) must be more than low_freq_factor (unset: 1)",
    ),
    Conflict(
        "{option}",
        lambda m: {quantised_by(m)[1]: " and ".join(quantised_by(m))} if len(quantised_by(m)) > 1 else {},
        "{value} are both true; a base is quantised in one way, keep one",
    ),
)
