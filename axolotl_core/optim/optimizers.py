"""Optimizers by name, as the table in params/optimizers.py describes them."""

import importlib
from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import Optimizer

from axolotl_core.errors import MachineError
from axolotl_core.optim.groups import parameter_groups
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.training import Training


def make_optimizer(named: Iterable[tuple[str, Parameter]], training: Training, adapter: Adapter) -> Optimizer:
    """Optimizer over the parameters that require a gradient. Raises MachineError when its package is missing."""
    spec = OPTIMIZERS[training.optimizer]
    module, _, name = spec.path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MachineError(f"training.optimizer: {package} is missing ({error}); pip install 'axolotl[{package}]'") from None
    options = {"betas": (training.adam_beta1, training.adam_beta2), "eps": training.adam_epsilon}
    given = {option: options[option] for option in spec.options}
    optimizer: Optimizer = kind(parameter_groups(named, training, adapter), lr=training.learning_rate, **given, **spec.fixed)
    return optimizer
