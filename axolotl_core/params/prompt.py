"""`prompt`: what shapes ids and labels for all datasets. An edit re-runs at most tokenize onward."""

from typing import Literal

from axolotl_core.params.section import Section


class Prompt(Section):
    """Tokenisation and label masking of all datasets."""

    train_on_inputs: bool = False
    """Train on the prompt too, not only on the answers."""
    mask_check: Literal["error", "warn"] = "error"
    """What to do where an answer's end is never trained, or where the ids do not give the text back."""
