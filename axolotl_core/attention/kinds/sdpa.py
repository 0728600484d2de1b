"""torch.nn.functional.scaled_dot_product_attention."""

from axolotl_core.attention.need import Need

IMPLEMENTATION = "sdpa"
PREFERENCE = 1


def fits(need: Need) -> str | None:
    """Where the model's class in transformers offers it; GPT-J and MPT do not."""
    if not getattr(need.model_class, "_supports_sdpa", False):
        return f"{need.model_class.__name__} has no sdpa attention; use eager_attention"
    return None
