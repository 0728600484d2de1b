"""Liger's rotary embedding of queries and keys in one pass (RoPE: Su et al. 2021, arXiv 2104.09864).

The models of transformers call a function of their file; each attention module gets a forward pass of its own that calls the kernel
where it called that function.
"""

import inspect
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_core.attention.need import Need
from axolotl_core.kernels.triton import lacks

OPTIONS = ("liger_rope",)
ROTATION = "apply_rotary_pos_emb"


def fits(need: Need) -> str | None:
    """Where triton and liger-kernel are."""
    return lacks(need.device, "liger_kernel", "kernels")


def replace(model: nn.Module, device: torch.device) -> list[nn.Module]:
    """The attention modules that run it now: those whose family rotates halves of a whole head, as Llama does."""
    from liger_kernel.ops.rope import LigerRopeFunction

    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rotated: tuple[Tensor, Tensor] = LigerRopeFunction.apply(_copied(query), _copied(key), cos, sin)
        return rotated

    replaced = []
    for module in model.modules():
        forward = inspect.unwrap(type(module).forward)
        if not isinstance(forward, FunctionType) or ROTATION not in forward.__code__.co_names:
            continue
        if not _same(forward.__globals__[ROTATION], rotate, device):
            continue
        names = {**forward.__globals__, ROTATION: rotate}
        own = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
        own.__kwdefaults__ = forward.__kwdefaults__
        module.forward = MethodType(own, module)
        replaced.append(module)
    return replaced


def _copied(states_BHTD: Tensor) -> Tensor:
    """A copy with the layout that the kernel wants. It writes in place, unseen by PyTorch: selective checkpointing keeps the product
    that was written to, and would rotate it again."""
    return states_BHTD.transpose(1, 2).contiguous().clone().transpose(1, 2)


@torch.no_grad()
def _same(theirs: Any, ours: Any, device: torch.device) -> bool:
    """Whether both rotate random states alike."""
    generator = torch.Generator().manual_seed(0)
    query, key, angles = (torch.randn(shape, generator=generator).to(device) for shape in ((1, 4, 3, 16), (1, 2, 3, 16), (1, 3, 8)))
    angles = torch.cat([angles, angles], -1)
    try:
        wanted = theirs(query.clone(), key.clone(), angles.cos(), angles.sin())
    except (RuntimeError, TypeError, ValueError, IndexError):  # it takes other arguments
        return False
    got = ours(query.clone(), key.clone(), angles.cos(), angles.sin())
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip(got, wanted, strict=True))
