"""torch.nn.functional.scaled_dot_product_attention on whole rows; packed ones with a mask of T × T, which no flash kernel takes."""

from typing import Any

from axolotl_core.attention.laid import Laid
from axolotl_core.attention.need import Need

OPTION = "sdp_attention"
PREFERENCE = 10
OPERATORS: tuple[str, ...] = ("scaled_dot_product",)


def fits(need: Need) -> str | None:
    """Where the model's class in transformers offers it; GPT-J and MPT do not, nor models with soft caps or sinks."""
    if not getattr(need.model_class, "_supports_sdpa", False):
        return f"{need.model_class.__name__} has no sdpa attention; use eager_attention"
    return None


def inputs(laid: Laid) -> dict[str, Any]:
    """As eager."""
    return laid.mask_kwargs()
