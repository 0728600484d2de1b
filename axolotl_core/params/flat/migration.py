"""What became of one option of an old file."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Migration:
    """message: where it is now, or why it is not.

    stops: it asks for another result than params.yaml can, so that a flat file which sets it is not run as it is.
    """

    option: str
    status: Literal["kept", "renamed", "replaced", "not needed", "left out"]
    message: str
    stops: bool = False
