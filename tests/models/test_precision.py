"""Dtypes by option, and the device."""

import pytest
import torch

from axolotl_core.errors import MachineError
from axolotl_core.models.load import device_of
from axolotl_core.models.precision import choose
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.training import Training
from tests.rows_in_memory import CPU


@pytest.mark.parametrize(
    ("training", "model_", "full", "name", "dtypes"),
    [
        ({}, {}, True, "fp32", ("float32", "float32", "None")),
        ({"bf16": True}, {}, False, "bf16", ("bfloat16", "float32", "bfloat16")),
        ({"fp16": True}, {}, True, "fp16", ("float16", "float32", "float16")),
        ({"bf16": "full"}, {}, True, "bf16 full", ("bfloat16", "bfloat16", "None")),
        ({}, {"bfloat16": True}, True, "bfloat16", ("bfloat16", "bfloat16", "None")),
        ({}, {"float16": True}, False, "float16", ("float16", "float32", "None")),
    ],
)
def test_precision_by_option(training: dict, model_: dict, full: bool, name: str, dtypes: tuple):
    found = choose(Training(**training), Model(base_model="x", **model_), CPU, full=full)
    assert (found.name, *(str(f).removeprefix("torch.") for f in (found.frozen, found.trained, found.autocast))) == (name, *dtypes)


def test_a_device_that_is_not_there_is_told():
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match="machine.device is cuda, which this machine does not have; set it to auto or cpu"):
            device_of(Machine(device="cuda"))
