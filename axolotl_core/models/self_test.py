"""Proof, before training, that samples of a packed row do not see each other, and that the output layer can be run apart."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from axolotl_core.errors import ModelError
from axolotl_core.models.forward import ForwardSpec, forward, hidden, unwrap

PROBE = (7, 7, 5)
"""Lengths of the samples of the self-test."""
MOST_NOISE = 4
"""How many times the noise of a batch a difference may be, that packing makes."""
MOST_PARAMETERS = 300_000_000
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""Largest difference of logits, packed and apart, as a share of the largest logit; a quantised model rounds as fp16 does, or more."""


@torch.no_grad()
def splits(model: Any, spec: ForwardSpec) -> bool:
    """Whether the logits are the output layer's, with nothing after it; Gemma 2 caps them, Cohere scales them."""
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    ids, positions = _probe(model)[0]
    states = hidden(model, ids, positions, spec)
    return states.shape[-1] == getattr(head, "in_features", None) and torch.equal(head(states), forward(model, ids, positions, spec))


@torch.no_grad()
def self_test(model: Any, spec: ForwardSpec) -> None:
    """A packed sample must give the logits that it gives alone, and keep them when its neighbour is another.

    The model's own noise is measured first, on rows of a batch, which cannot see each other: LLM.int8 picks its outlier columns by
    all that is in a batch, and experts run on as many rows as come to them. Raises ModelError with the difference.
    """
    training = model.training
    model.eval()
    first, other, second = _probe(model)
    short = second[0].shape[1]

    def rows(neighbour: Sample) -> Tensor:
        """The second sample's logits as a row of a batch."""
        ids, positions = (torch.cat([mine, theirs[:, :short]]) for mine, theirs in zip(second, neighbour, strict=True))
        return forward(model, ids, positions, spec).float()[0]

    def packed(neighbour: Sample) -> Tensor:
        return forward(model, *(torch.cat(pair, 1) for pair in zip(neighbour, second, strict=True)), spec).float()[0]

    alone = [forward(model, *sample, spec).float()[0] for sample in (first, second)]
    beside_first, beside_other = packed(first), packed(other)
    model.train(training)
    largest = torch.cat(alone).abs().max()
    noise = max((rows(first) - rows(other)).abs().max(), (rows(first) - alone[1]).abs().max())
    leak = max((beside_first[-short:] - beside_other[-short:]).abs().max(), (beside_first - torch.cat(alone)).abs().max())
    tolerance = TOLERANCE.get(torch.float16 if getattr(unwrap(model), "is_quantized", False) else model.dtype, 6e-2)
    if not leak <= tolerance * largest + MOST_NOISE * noise:
        raise ModelError(
            f"packed samples see each other in {type(unwrap(model)).__name__}: logits differ by {float(leak / largest):.2g} of "
            f"the largest, {float(noise / largest):.2g} without packing; set packing.sample_packing: false"
        )


Sample = tuple[Tensor, Tensor]
"""Ids and positions (1, T)."""


def _probe(model: Any) -> list[Sample]:
    """Three short samples, two of them of one length."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(unwrap(model).config.vocab_size, (1, n), generator=generator).to(model.device) for n in PROBE]
    return [(one, torch.arange(one.shape[1], device=model.device)[None]) for one in ids]


def small_model(config: Any, attention: str, device: torch.device) -> Any | None:
    """A random model of the same class with few layers and words, to be tested before any weight is read.

    None for a config that cannot be cut down, or is too wide for that to pay: it is tested once its weights are loaded.
    """
    config = copy.deepcopy(config)
    kinds = list(getattr(config, "layer_types", None) or ())
    layers = max(2, *(kinds.index(kind) + 1 for kind in kinds)) if kinds else 2
    small = {
        "vocab_size": 128,
        "num_hidden_layers": layers,
        "intermediate_size": 64,
        "moe_intermediate_size": 64,
        "layer_types": kinds[:layers],
    }
    small |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "quantization_config"))
    try:
        for name, value in small.items():
            if getattr(config, name, None) is not None:
                setattr(config, name, value)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config, trust_remote_code=False).parameters())
        if size > MOST_PARAMETERS:
            return None
        with torch.random.fork_rng(devices=[]), device:
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation=attention, dtype=torch.float32)
            for parameter in model.parameters():  # so large that a leak shows
                if parameter.ndim > 1:
                    torch.nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
        return model
    except (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError):
        return None
