"""Two shims for a machine without GPU: gptqmodel imports torchvision, which torch on CPUs has no build of, and wants four cores."""

import os
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import transformers.image_utils  # noqa: F401, it must have looked for torchvision before there is one


def anything(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


class Torchvision(MetaPathFinder, Loader):
    """Any module below torchvision, with any name in it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = anything  # type: ignore[method-assign]
        module.__version__ = "0.0"  # type: ignore[attr-defined]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


sys.meta_path.append(Torchvision())
os.cpu_count = lambda: 4
