"""`prompt`: what shapes ids and labels for all data sets. An edit re-runs tokenize onward."""

from axolotl_core.params.section import Section


class Prompt(Section):
    """What shapes ids and labels for all data sets."""

    train_on_inputs: bool = False
    """Train on the prompt too, not only on the answers."""
