"""What became of one option of an old file."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Migration:
    """told: where it is now, or why it is not.

    stops: it asks for another result than params.yaml can, so that a flat file which sets it is not run as it is.
    """

    option: str
    fate: Literal["kept", "renamed", "replaced", "not needed", "left out"]
    told: str
    stops: bool = False
