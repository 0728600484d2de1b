"""Cross-entropy as a sum over target tokens, with logits only where a label is trained and a few at a time.

    ids      a  b  c  d        position 1 predicts label c, position 2 predicts d:
    labels   -  -  c  d        the head runs at positions 1 and 2 alone

The sum, not the mean: means of micro-batches with unequal masks must not be averaged.

B rows, T tokens, N target tokens, H features, V vocabulary
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from axolotl_core.batches.batch import Inputs
from axolotl_core.kernels.chunked import chunks
from axolotl_core.models.compiler import COMPILER_ERRORS
from axolotl_core.models.forward import ForwardSpec, forward, hidden, unwrap
from axolotl_core.models.self_test import TOLERANCE

PROBED = 128
"""Positions that a kernel of the loss is tried on."""
Kernel = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
"""(states (N, H), weight (V, H), bias (V) or None, labels (N)) → Σ cross-entropy."""


def hidden_at_targets(model: Any, inputs: Inputs, spec: ForwardSpec) -> Tensor:
    """What predicts each target label: hidden states (N, H) where the head can be split off, logits (N, V) elsewhere."""
    if spec.split:
        return hidden(model, inputs.ids_BT, inputs.positions_BT, spec, inputs.sequences).flatten(0, 1)[inputs.target_positions_N]
    length = inputs.ids_BT.shape[1]
    keep_K, place_N = torch.unique(inputs.target_positions_N % length, return_inverse=True)
    logits_BKV = forward(model, inputs.ids_BT, inputs.positions_BT, spec, keep_K, inputs.sequences)
    return logits_BKV[inputs.target_positions_N // length, place_N]


def loss_sum(model: Any, inputs: Inputs, spec: ForwardSpec, kernel: Kernel | None = None) -> Tensor:
    """Sum of cross-entropy over the batch's target tokens, in nats, a scalar with a gradient.

    kernel: what makes the loss of a plain output layer in the place of `LinearCrossEntropy`.
    """
    states, labels_N = hidden_at_targets(model, inputs, spec), inputs.labels_N
    if not spec.split:
        return functional.cross_entropy(states.float(), labels_N, reduction="sum")
    head = head_of(model)
    if is_plain(head):
        made = partial(with_kernel, kernel) if kernel and len(labels_N) else LinearCrossEntropy.apply
        total: Tensor = inside(head, lambda: made(states, head.weight, head.bias, labels_N), states)
        return total

    def of_chunk(states_CH: Tensor, labels_C: Tensor) -> Tensor:
        return functional.cross_entropy(head(states_CH).float(), labels_C, reduction="sum")

    parts = [
        checkpoint(of_chunk, states[c], labels_N[c], use_reentrant=False)
        for c in chunks(len(labels_N), head.out_features, states.device.type)
    ]
    return torch.stack(parts).sum() if parts else head(states).sum().float()


def head_of(model: Any) -> Any:
    """The output layer that is in use: peft trains a copy of one in lora_modules_to_save."""
    head = unwrap(model).get_output_embeddings()
    copies = getattr(head, "modules_to_save", {})
    return copies[head.active_adapter] if copies and not head.disable_adapters else head


def is_plain(head: Any) -> bool:
    """A linear layer without an adapter beside it, not quantised."""
    return type(head) is torch.nn.Linear


def inside(module: torch.nn.Module, function: Callable[[], Any], states: Tensor) -> Any:
    """Call `function` as the forward pass of `module`, where ZeRO 3 has gathered its weights.

    One call of the module whatever `function` does with it, for processes must call a module equally often.
    """
    module.forward = lambda _: function()  # type: ignore[method-assign]
    try:
        return module(states)
    finally:
        del module.forward


def with_kernel(kernel: Kernel, states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """The loss as a kernel makes it, in the dtype of the forward pass."""
    kind = states_NH.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VH.dtype
    with torch.autocast(kind, enabled=False):
        return kernel(states_NH.to(dtype), weight_VH.to(dtype), None if bias_V is None else bias_V.to(dtype), labels_N).float()


def kernel_difference(model: Any, autocast: torch.dtype | None, device: torch.device, kernel: Kernel) -> str | None:
    """How a kernel's loss or gradients are others than `LinearCrossEntropy`'s at the model's output layer, None where they are the same."""
    head = head_of(model)
    if not is_plain(head):
        return "the output layer is not a plain one"
    generator = torch.Generator().manual_seed(0)
    weight = head.weight.detach()
    if not weight.any():  # without weights of its own yet: any others do as well
        weight = torch.randn(weight.shape, generator=generator).mul_(weight.shape[1] ** -0.5).to(weight.dtype)
    weight = weight.to(device)
    states_NH = torch.randn(PROBED, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    labels_N = torch.randint(weight.shape[0], (PROBED,), generator=generator).to(weight.device)
    bias = None if head.bias is None else head.bias.detach().to(device)
    found = []
    for made in (LinearCrossEntropy.apply, partial(with_kernel, kernel)):
        leaves = [states_NH.clone().requires_grad_(), weight.clone().requires_grad_()]
        with torch.autocast(weight.device.type, autocast, enabled=autocast is not None), torch.enable_grad():
            loss = made(*leaves, bias, labels_N)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    tolerance = TOLERANCE.get(autocast or weight.dtype, 6e-2)
    for what, wanted, got in zip(("loss", "gradient of its input", "gradient of its weight"), *found, strict=True):
        share = float((got.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-30))
        if not share <= tolerance:
            return f"it gives another {what}, by {share:.2g} of the largest"
    return None


class LinearCrossEntropy(torch.autograd.Function):
    """Σ cross-entropy of h Wᵀ + b, chunk by chunk; the gradient is made in the forward pass while the logits are there.

    ∂/∂logits = softmax - onehot, so no logits are kept or made twice: one chunk is in memory at a time.
    """

    @staticmethod
    def forward(ctx: Any, states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        kind = states_NH.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VH.dtype
        of_states, of_weight, of_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), device=states_NH.device)
        grad_NH = torch.zeros_like(states_NH) if of_states else None
        grad_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if of_weight else None  # a sum over chunks, which 16 bits would round
        grad_V = torch.zeros_like(bias_V) if of_bias else None
        body = chunk_body(kind)
        with torch.autocast(kind, enabled=False):
            weight = weight_VH.to(dtype)
            cast_NH = states_NH.to(dtype)
            for chunk in chunks(len(labels_N), len(weight_VH), kind):
                states, labels = cast_NH[chunk], labels_N[chunk]
                logits = functional.linear(states, weight, None if bias_V is None else bias_V.to(dtype))
                loss, slope, slope_V = body(logits, labels, of_states or of_weight or of_bias, grad_V is not None)
                total += loss
                if slope is not None:
                    if grad_V is not None:
                        grad_V += slope_V
                    if grad_NH is not None:
                        grad_NH[chunk] = slope @ weight
                    if grad_VH is not None:
                        grad_VH.addmm_(slope.T, states) if grad_VH.dtype == dtype else grad_VH.add_(slope.T @ states)
        ctx.save_for_backward(grad_NH, grad_VH, grad_V)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if saved is None else saved.mul_(grads[0]) for saved in ctx.saved_tensors), None)


Body = Callable[[Tensor, Tensor, bool, bool], tuple[Tensor, Tensor | None, Tensor | None]]


def loss_and_slope(logits_CV: Tensor, labels_C: Tensor, slope: bool, bias: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Σ cross-entropy of a chunk in fp32, and where they are wanted its slope to the logits (C, V) in their dtype, and to the bias (V).

    Writes into the logits.
    """
    logits = logits_CV.float()
    log_total = logits.logsumexp(-1, keepdim=True)
    loss = (log_total - logits.gather(1, labels_C[:, None])).sum()
    if not slope:
        return loss, None, None
    slope_CV = logits.sub_(log_total).exp_()
    if torch.compiler.is_compiling():  # one pass with the line before, where a scatter would be another
        slope_CV = slope_CV - (torch.arange(slope_CV.shape[1], device=slope_CV.device) == labels_C[:, None]).float()
    else:
        slope_CV.scatter_add_(1, labels_C[:, None], torch.full_like(log_total, -1.0))
    return loss, slope_CV.to(logits_CV.dtype), slope_CV.sum(0) if bias else None


@cache
def chunk_body(kind: str) -> Body:
    """What turns a chunk's logits into loss and slope on this type of device: compiled on a GPU, where triton can compile it.

    A CPU runs nine passes over the logits as fast as the product before them takes, and has no compiler more often than not.
    """
    if kind != "cuda":
        return loss_and_slope
    compiled: Body = torch.compile(loss_and_slope, dynamic=True)
    try:
        for dtype in (torch.float32, torch.bfloat16):
            compiled(torch.zeros(2, 16, device=kind, dtype=dtype), torch.zeros(2, dtype=torch.long, device=kind), True, False)
    except COMPILER_ERRORS:
        return loss_and_slope
    return compiled


@torch.no_grad()
def token_losses(model: Any, inputs: Inputs, spec: ForwardSpec) -> tuple[Tensor, Tensor]:
    """Per target token: loss (N) in nats, whether the likeliest token is the label (N)."""
    states = hidden_at_targets(model, inputs, spec)
    head = head_of(model) if spec.split else torch.nn.Identity()
    plain = head.forward

    def of_all() -> tuple[Tensor, Tensor]:
        found = [(states.new_zeros(0, dtype=torch.float32), states.new_zeros(0, dtype=torch.bool))]
        for chunk in chunks(len(inputs.labels_N), getattr(head, "out_features", states.shape[-1]), states.device.type):
            logits_CV, labels_C = plain(states[chunk]).float(), inputs.labels_N[chunk]
            found.append((functional.cross_entropy(logits_CV, labels_C, reduction="none"), logits_CV.argmax(-1) == labels_C))
        loss_N, right_N = (torch.cat(column) for column in zip(*found, strict=True))
        return loss_N, right_N

    both: tuple[Tensor, Tensor] = inside(head, of_all, states)
    return both
