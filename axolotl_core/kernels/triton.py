"""Where kernels written in triton run."""

import os
from importlib.util import find_spec

import torch

INTERPRETER = "TRITON_INTERPRET"
"""Set to 1 in the environment, triton runs kernels on a CPU, one program after the other: for tests."""


def lacks(device: torch.device, package: str, extra: str) -> str | None:
    """Why kernels of a package do not run on this machine, None where they do."""
    if find_spec(package) is None:
        return f"{package.replace('_', '-')} is not installed; pip install 'axolotl[{extra}]'"
    if device.type != "cuda" and os.environ.get(INTERPRETER) != "1":
        return f"it runs on a GPU, not on {device.type}"
    return None
