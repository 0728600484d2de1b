"""Proof, before training, that samples of a packed row do not see each other, that attention is what eager attention is, and that
the output layer can be run apart.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from axolotl_core.errors import ModelError
from axolotl_core.models.forward import ForwardSpec, forward, hidden, unwrap

PROBE = (7, 7, 5)
"""Lengths of the samples of the self-test."""
WINDOW, SOFT_CAP, EXPERTS = 3, 0.5, 4
"""Of the small model: a window shorter than the samples, a cap that scores run into, few experts that are all asked."""
MOST_NOISE = 4
"""How many times the noise of a batch a difference may be, that packing makes."""
WIDTHS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_kv_heads")
MOST_PARAMETERS = 320_000_000
"""Two layers of a llama of 70 billion weights, whose hidden states stay as wide as they are."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""Largest difference of logits, packed and apart, as a share of the largest logit; a quantised model rounds as fp16 does, or more."""


@torch.no_grad()
def splits(model: Any, spec: ForwardSpec) -> bool:
    """Whether the logits are the output layer's, with nothing after it; Gemma 2 caps them, Cohere scales them."""
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    ids, positions = _probe(model)[0]
    with _written_out(model, spec):  # other attention may want 16 bits, or another device than the weights are on now
        states = hidden(model, ids, positions, spec)
        logits = forward(model, ids, positions, spec)
    if states.dtype != getattr(head, "weight", states).dtype:  # Mamba keeps its residuals in fp32
        return False
    return states.shape[-1] == getattr(head, "in_features", None) and torch.equal(head(states), logits)


def self_test(model: Any, spec: ForwardSpec, autocast: torch.dtype | None = None, *, eager: bool = True, backward: bool = False) -> None:
    """A packed sample must give the logits that it gives alone, and keep them when its neighbour is another.

    eager: and they must be those of eager attention; backward: and the gradients. A mixture of experts in 16 bits may send a token
    elsewhere for a rounding of its attention, so `eager` is for small models that ask all their experts. The model's own noise is
    measured first, on rows of a batch, which cannot see each other: LLM.int8 picks its outlier columns by all that is in a batch, and
    experts run on as many rows as come to them. Raises ModelError with the difference.
    """
    training = model.training
    model.eval()
    with torch.autocast(model.device.type, autocast, enabled=autocast is not None), torch.set_grad_enabled(backward):
        try:
            _compare(model, spec, autocast, eager)
        finally:
            model.zero_grad()
            model.train(training)


def _compare(model: Any, spec: ForwardSpec, autocast: torch.dtype | None, eager: bool) -> None:
    first, other, second = _probe(model)
    short = second[0].shape[1]

    def rows(neighbour: Sample) -> Tensor:
        """The second sample's logits as a row of a batch."""
        ids, positions = (torch.cat([mine, theirs[:, :short]]) for mine, theirs in zip(second, neighbour, strict=True))
        return forward(model, ids, positions, spec).float()[0]

    def packed(neighbour: Sample) -> Tensor:
        return forward(model, *(torch.cat(pair, 1) for pair in zip(neighbour, second, strict=True)), spec).float()[0]

    def apart() -> Tensor:
        return torch.cat([forward(model, *sample, spec).float()[0] for sample in (first, second)])

    with _written_out(model, spec) if eager else nullcontext():
        wanted = apart()
        gradients = _gradients(model, wanted)
    alone, beside_first, beside_other = apart(), packed(first), packed(other)
    taken = _gradients(model, beside_first)
    wanted, alone, beside_first, beside_other = (logits.detach() for logits in (wanted, alone, beside_first, beside_other))
    largest = wanted.abs().max()
    noise = max((rows(first) - rows(other)).abs().max(), (rows(first) - alone[-short:]).abs().max()).detach()
    other_attention = (alone - wanted).abs().max()
    leak = max((beside_first[-short:] - beside_other[-short:]).abs().max(), (beside_first - alone).abs().max())
    rounded = torch.float16 if getattr(unwrap(model), "is_quantized", False) else autocast or model.dtype
    tolerance = TOLERANCE.get(rounded, 6e-2)
    name, attention, most = type(unwrap(model)).__name__, attention_of(model), tolerance * largest + MOST_NOISE * noise
    if not other_attention <= most:
        raise ModelError(
            f"{attention} attention is wrong in {name}: logits differ by {float(other_attention / largest):.2g} of the largest from "
            "those of eager attention; set machine.eager_attention: true"
        )
    if not leak <= most:
        raise ModelError(
            f"packed samples see each other in {name} with {attention} attention: logits differ by {float(leak / largest):.2g} of "
            f"the largest, {float(noise / largest):.2g} without packing; set packing.sample_packing: false"
        )
    whole = torch.stack([right.norm() for right in gradients.values()]).norm() if gradients else 0.0
    for parameter, right in gradients.items():
        got = taken.get(parameter, torch.zeros_like(right))
        # a share of the whole gradient is let off: that of a key's bias is nothing but noise
        if not (got - right).norm() <= 2 * tolerance * (right.norm() + 0.01 * whole):
            raise ModelError(
                f"{attention} attention is wrong in {name}: the gradient of {parameter} is not that of eager attention; set "
                "machine.eager_attention: true"
            )


@contextmanager
def _written_out(model: Any, spec: ForwardSpec) -> Iterator[None]:
    """The model with eager attention, where its backend is one of several that transformers chooses from at each call."""
    inner, attention = unwrap(model), attention_of(model)
    if not inner._supports_attention_backend or spec.method == "mask":
        yield
        return
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(attention)


def attention_of(model: Any) -> str:
    """transformers' name of a model's attention."""
    return str(unwrap(model).config._attn_implementation)


def _gradients(model: Any, logits_TV: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum of logits to each parameter that has one; none where none are taken."""
    if not logits_TV.requires_grad:
        return {}
    model.zero_grad()
    weights = torch.linspace(-1, 1, logits_TV.numel(), device=logits_TV.device).view_as(logits_TV)
    (logits_TV * weights).sum().backward()
    return {name: parameter.grad.float() for name, parameter in model.named_parameters() if parameter.grad is not None}


def difference(model: Any, spec: ForwardSpec, autocast: torch.dtype | None, change: Callable[[], object]) -> str | None:
    """How the model's logits or gradients are others once `change` has been called; None where they are the same up to rounding."""
    training = model.training
    model.eval()
    try:
        before = _numbers(model, spec, autocast)
        change()
        after = _numbers(model, spec, autocast)
    finally:
        model.train(training)
    tolerance = TOLERANCE.get(autocast or unwrap(model).dtype, 6e-2)
    for what, wanted, got in zip(("logits", "gradients"), before, after, strict=True):
        share = float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        if not share <= tolerance:
            return f"it gives other {what} in {type(unwrap(model)).__name__}, by {share:.2g} of the largest"
    return None


def _numbers(model: Any, spec: ForwardSpec, autocast: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Logits of the probe's samples in a row, and the gradient of a weighted sum of them to the embeddings and to all vectors (norms)."""
    states: list[Tensor] = []

    def leave(_: Any, __: Any, out: Tensor) -> Tensor:
        states.append(out.detach().requires_grad_())
        return states[-1]

    hook = unwrap(model).get_input_embeddings().register_forward_hook(leave)
    try:
        with torch.autocast(model.device.type, autocast, enabled=autocast is not None), torch.enable_grad():
            logits = forward(model, *(torch.cat(parts, 1) for parts in zip(*_probe(model), strict=True)), spec).float()
            vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1 and parameter.requires_grad]
            weights = torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits)
            found = torch.autograd.grad((logits * weights).sum(), [states[0], *vectors], allow_unused=True)
    finally:
        hook.remove()
    return logits.detach(), torch.cat([gradient.float().flatten() for gradient in found if gradient is not None])


Sample = tuple[Tensor, Tensor]
"""Ids and positions (1, T)."""


def _probe(model: Any) -> list[Sample]:
    """Three short samples, two of them of one length."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(unwrap(model).config.get_text_config().vocab_size, (1, n), generator=generator).to(model.device) for n in PROBE]
    return [(one, torch.arange(one.shape[1], device=model.device)[None]) for one in ids]


def _size(config: Any) -> int:
    """Parameters of a model of this config."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config, trust_remote_code=False).parameters())


def small_model(config: Any, attention: str, device: torch.device, dtype: torch.dtype | None = None) -> Any | None:
    """A random model of the same class with few layers and words, to be tested before any weight is read.

    Windows are shorter than the probe's samples and soft caps low, so that a backend that leaves them out is found. A very wide model
    gets fewer heads, of the same size and as many to a key. None for a config that cannot be cut down: it is tested once its weights
    are loaded.
    """
    whole = copy.deepcopy(config)
    config = whole.get_text_config()
    for other in (getattr(whole, name) for name in whole.sub_configs):
        if other is not config and getattr(other, "num_hidden_layers", None):
            other.num_hidden_layers = 1
    kinds = list(getattr(config, "layer_types", None) or ())
    layers = max(2, *(kinds.index(kind) + 1 for kind in kinds)) if kinds else 2
    small = {
        "vocab_size": 128,
        "num_hidden_layers": layers,
        "intermediate_size": 64,
        "moe_intermediate_size": 64,
        "layer_types": kinds[:layers],
        "sliding_window": WINDOW,
        "attention_chunk_size": WINDOW,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": SOFT_CAP,
        "num_local_experts": EXPERTS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS,
    }
    small |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "quantization_config"))
    try:
        for name, value in small.items():
            if getattr(config, name, None) is not None:
                setattr(config, name, value)
        while _size(whole) > MOST_PARAMETERS:
            widths = {name: getattr(config, name, None) for name in WIDTHS}
            if not widths["hidden_size"] or any(width % 2 for width in widths.values() if width):
                return None
            for name, width in widths.items():
                if width:
                    setattr(config, name, width // 2)
        settings = {"attn_implementation": attention, "dtype": dtype or torch.float32}
        with torch.random.fork_rng(devices=[]), device:
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(whole, trust_remote_code=False, **settings)
            for parameter in model.parameters():  # so large that a leak shows
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
        return model
    except (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError):
        return None
