"""`export`: the form in which the model leaves. An edit re-runs at most export."""

from typing import Annotated

from axolotl_core.params.section import Section, Supported


class Export(Section):
    """The form in which the model leaves."""

    save_safetensors: Annotated[bool, Supported()] = True
    """Weights are always written as safetensors."""
    hub_model_id: Annotated[str | None, Supported()] = None
    """Hub repository to push to."""
    hub_strategy: Annotated[str | None, Supported()] = None
    """When to push."""
