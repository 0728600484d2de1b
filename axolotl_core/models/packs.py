"""How a model keeps the samples of a packed row apart."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Packs:
    """positions: by position_ids that restart, without an attention mask and without a cache.

    mask: by an additive 4-D mask. None: not at all, and `reason` says why.
    """

    how: Literal["positions", "mask"] | None
    reason: str = ""
