"""What a run needs of an attention backend."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """The model's class in transformers, the device's type, and whether rows hold several samples."""

    model_class: type
    device: str
    packed: bool
