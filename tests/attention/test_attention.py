"""Attention of packed rows: by sample as by mask, what is chosen and why, and a backend that is wrong found before the first step."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_core import lookup
from axolotl_core.attention import choose as choosing
from axolotl_core.attention import mask
from axolotl_core.attention.by_sample import attend_by_sample
from axolotl_core.attention.choose import KINDS, backend, choose, explained, requested_kinds
from axolotl_core.attention.flash import lacks
from axolotl_core.attention.kinds import varlen
from axolotl_core.attention.need import Need
from axolotl_core.attention.sequences import Sequences
from axolotl_core.batches.batch import Inputs
from axolotl_core.errors import ModelError, ParamsError
from axolotl_core.models.forward import ForwardSpec, forward
from axolotl_core.models.load import need_of
from axolotl_core.models.self_test import self_test, small_model
from axolotl_core.params.machine import Machine
from tests.attention.families import FAMILIES, config_of
from tests.rows_in_memory import CPU, LENGTHS, SPLIT, source


def model_of(config: Any, attention: str) -> Any:
    model = small_model(config, attention, CPU)
    assert model is not None
    model.config.use_cache = False
    return model


def need(family: str = "llama", device: str = "cpu", dtype: torch.dtype = torch.float32, packed: bool = True, **others: Any) -> Need:
    return need_of(config_of(family, **others), torch.device(device), dtype, packed=packed)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    rows=st.integers(1, 3),
    group=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([None, 1, 3, 20]),
    softcap=st.sampled_from([None, 0.7]),
    sinks=st.booleans(),
    width=st.sampled_from([8, 4]),
)
def test_by_sample_it_is_what_a_mask_makes_of_it_forward_and_backward(lengths, rows, group, window, softcap, sinks, width):
    """In fp64, against attention over whole rows with everything outside a token's sample, past and window masked."""
    torch.manual_seed(0)
    tokens, heads = sum(lengths), 4
    shapes = [(rows, heads, tokens, 8), (rows, heads // group, tokens, 8), (rows, heads // group, tokens, width)]
    states = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    sinks_H = torch.randn(heads, dtype=torch.float64, requires_grad=True) if sinks else None
    sample = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    apart = torch.arange(tokens)[:, None] - torch.arange(tokens)
    seen = (sample[:, None] == sample) & (apart >= 0) & (apart < (window or tokens))

    query, key, value = (part.repeat_interleave(heads // part.shape[1], 1) for part in states)
    scores = query @ key.mT * 0.3
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks_H is not None:
        scores = torch.cat([scores, sinks_H[None, :, None, None].expand(rows, -1, tokens, 1)], -1)
    wanted = (scores.softmax(-1)[..., :tokens] @ value).transpose(1, 2)
    got = attend_by_sample(*states, lengths * rows, scaling=0.3, sliding_window=window, softcap=softcap, sinks_H=sinks_H)
    assert torch.allclose(got, wanted, atol=1e-6)  # the weights are in fp32 where they are written out

    leaves = [*states, *([sinks_H] if sinks_H is not None else [])]
    slope = torch.randn_like(wanted)
    for a, b in zip(torch.autograd.grad(got, leaves, slope), torch.autograd.grad(wanted, leaves, slope), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in lookup.names(KINDS) if kind != "eager"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_kind_that_fits_a_cpu_equals_eager_on_each_family(family: str, kind: str):
    """Logits and gradients; what does not fit says so in a sentence."""
    reason = backend(kind).fits(need(family))
    if reason is None:
        self_test(model_of(config_of(family), kind), ForwardSpec(), backward=True)
    else:
        assert kind != "varlen"
        assert reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_in_sixteen_bits_too(family: str, dtype: torch.dtype):
    self_test(small_model(config_of(family), "varlen", CPU, dtype), ForwardSpec(), backward=True)
    if dtype == torch.bfloat16:  # and under autocast, with weights in fp32
        self_test(model_of(config_of(family), "varlen"), ForwardSpec(), dtype, backward=True)


def _wrong_backward(real: Any) -> Any:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
            return states.clone()

        @staticmethod
        def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return slope / 2

    return lambda *states, **settings: Halved.apply(real(*states, **settings))


LIES = {
    "no window": ("mistral", lambda real: lambda *s, **k: real(*s, **k | {"sliding_window": None}), "attention is wrong in Mistral"),
    "no soft cap": ("gemma2", lambda real: lambda *s, **k: real(*s, **k | {"softcap": None}), "attention is wrong in Gemma2"),
    "no sinks": ("gpt_oss", lambda real: lambda *s, **k: real(*s, **k | {"sinks_H": None}), "attention is wrong in GptOss"),
    "no samples": (
        "llama",
        lambda real: lambda q, k, v, ends, **s: real(q, k, v, torch.tensor([0, q.shape[0] * q.shape[2]]), **s),
        "packed samples see each other in Llama",
    ),
    "a wrong slope": ("llama", _wrong_backward, "the gradient of model"),
}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lie", LIES)
def test_a_backend_that_is_wrong_is_found(lie: str, autocast: torch.dtype | None, monkeypatch: pytest.MonkeyPatch):
    family, wrapped, message = LIES[lie]
    model = model_of(config_of(family), "varlen")
    self_test(model, ForwardSpec(), autocast, backward=True)
    monkeypatch.setattr(varlen, "_by_sample", wrapped(varlen._by_sample))
    with pytest.raises(ModelError, match=message):
        self_test(model, ForwardSpec(), autocast, backward=True)


@pytest.mark.parametrize("seed", range(6))
def test_experts_in_sixteen_bits_raise_no_false_alarm(seed: int):
    """A routing that a rounding turns over is no other attention."""
    config = config_of("gpt_oss", num_local_experts=32, num_experts_per_tok=4)
    torch.manual_seed(seed)
    self_test(small_model(config, "varlen", CPU, torch.bfloat16), ForwardSpec(), backward=True)
    whole = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="varlen", dtype=torch.bfloat16)
    whole.config.use_cache = False
    self_test(whole, ForwardSpec(), eager=False)


@pytest.mark.parametrize("positions", [[[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]], [[0, 1, 2, 3, 4, 5]] * 2], ids=["packed", "one a row"])
def test_transformers_does_not_ask_the_device_whether_rows_are_packed(positions: list, monkeypatch: pytest.MonkeyPatch):
    """The batch knows it; what comes of it is the same."""
    model, positions_BT = model_of(config_of("llama"), "sdpa"), torch.tensor(positions)
    ids_BT = torch.randint(1, 64, (2, 6), generator=torch.Generator().manual_seed(0))
    wanted = model(input_ids=ids_BT, position_ids=positions_BT, use_cache=False).logits
    monkeypatch.setattr(mask, "find_packed_sequence_indices", None)
    assert torch.equal(forward(model, ids_BT, positions_BT, ForwardSpec()), wanted)
    with pytest.raises(TypeError):
        model(input_ids=ids_BT, position_ids=positions_BT, use_cache=False)


def test_a_model_called_past_our_forward_says_so():
    """Positions that restart would be one sample to it."""
    model = model_of(config_of("llama"), "varlen")
    with pytest.raises(ModelError, match=r"does not pass on to its attention where samples end; set machine\.eager_attention: true"):
        model(input_ids=torch.ones(1, 4, dtype=torch.long), position_ids=torch.tensor([[0, 1, 0, 1]]), use_cache=False)


def test_replies_are_those_of_eager_attention():
    """With a cache, an attention mask, a window shorter than the prompt."""
    prompt = torch.randint(1, 64, (1, 9), generator=torch.Generator().manual_seed(0))
    for family in ("mistral", "gemma2", "gpt_oss"):
        model = model_of(config_of(family), "varlen").eval()
        settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 8, "do_sample": False, "use_cache": True}
        settings |= {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0, "eos_token_id": None}
        taken = model.generate(prompt, **settings)
        model.set_attn_implementation("eager")
        wanted = model.generate(prompt, **settings)
        assert torch.equal(taken.sequences, wanted.sequences)
        assert torch.allclose(torch.stack(taken.logits), torch.stack(wanted.logits), atol=1e-3)


def test_ends_of_samples_are_found_once_a_batch(model, monkeypatch: pytest.MonkeyPatch):
    """On the CPU, padding as a sample of its own; no layer asks again."""
    batch = source(LENGTHS).batch([0, 1])
    inputs: Inputs = batch.place(CPU)
    assert sum(inputs.sequences.lengths) == batch.ids_BT.numel()
    assert inputs.sequences.cu_seqlens.tolist() == [0, *torch.tensor(inputs.sequences.lengths).cumsum(0).tolist()]
    monkeypatch.setattr(Sequences, "of", None)
    assert forward(model, inputs.ids_BT, inputs.positions_BT, SPLIT, sequences=inputs.sequences).shape[:2] == batch.ids_BT.shape


def test_ends_of_samples_of_rows_that_begin_anew():
    assert Sequences.of(torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 1]])).lengths == (3, 2, 1, 4, 2)


def test_packed_rows_take_the_samples_and_others_what_transformers_takes():
    assert choose(Machine(), need()) == ("varlen", None)
    assert choose(Machine(), need(packed=False)) == ("sdpa", None)
    assert choose(Machine(), need("gemma2", packed=False)) == ("eager", None)
    assert choose(Machine(), need("gptj")) == ("eager", None)  # neither sdpa nor the interface
    assert choose(Machine(), need("falcon")) == ("sdpa", None)  # with a mask of its own
    assert choose(Machine(), need("llama4_text", attention_chunk_size=8)) == ("sdpa", None)


@pytest.mark.parametrize(
    ("option", "kinds"),
    [
        ("flash_attention", ["flash_attention_3", "flash_attention_2"]),
        ("flex_attention", ["flex_attention"]),
        ("xformers_attention", ["xformers"]),
        ("sdp_attention", ["sdpa"]),
        ("eager_attention", ["eager"]),
    ],
)
def test_every_switch_of_the_seed_asks_for_its_kinds(option: str, kinds: list[str]):
    assert requested_kinds(Machine(**{option: True})) == kinds
    taken, note = choose(Machine(**{option: True}), need())
    if kinds[0] in ("sdpa", "eager"):
        assert (taken, note) == (kinds[0], None)
        return
    assert taken == "varlen"
    assert note is not None
    assert note.startswith(f"machine: {kinds[0]} attention does not fit: it ")
    assert note.endswith("; varlen is taken")
    with pytest.raises(ModelError, match=r"does not fit: it .*\(machine.allow_fallback is false\)"):
        choose(Machine(**{option: True}, allow_fallback=False), need())


def test_a_kind_by_its_name_and_one_there_is_not():
    assert choose(Machine(attn_implementation="sdpa"), need()) == ("sdpa", None)
    assert choose(Machine(attn_implementation="sage"), need()) == (
        "varlen",
        "machine: sage attention does not fit: this version has no such attention; varlen is taken",
    )
    with pytest.raises(ParamsError, match="no attention backend is called 'spda'; did you mean 'sdpa'"):
        backend("spda")


def test_check_says_what_is_taken_and_why_nothing_better():
    told = "varlen attention on cpu; no flash_attention_3, flash_attention_2: it runs on a GPU, not on cpu"
    assert explained(Machine(), need()) == told
    assert explained(Machine(sdp_attention=True), need()) == "sdpa attention on cpu"
    assert "GPTJForCausalLM does not pass on where samples end" in explained(Machine(), need("gptj"))


class OnGpu(Need):
    """As if the GPU were there."""

    capability = (9, 0)  # type: ignore[assignment]


def on_gpu(family: str = "llama", dtype: torch.dtype = torch.bfloat16, **others: Any) -> Need:
    found = need(family, "cuda", dtype, **others)
    return OnGpu(found.model_class, found.config, found.device, found.dtype, found.packed, found.method)


def test_what_fits_a_gpu():
    """What each kind says of an H100; the kernels themselves are tried in tests/gpu."""
    assert choose(Machine(), on_gpu()) == ("varlen", None)  # flash-attn is not installed here
    assert varlen.fits(on_gpu(dtype=torch.float32)) == "it runs in 16 bits, not in float32; set training.bf16: true"
    assert choose(Machine(), on_gpu(dtype=torch.float32))[0] == "flex_attention"
    assert choose(Machine(), on_gpu("gemma2"))[0] == "flex_attention"
    assert choose(Machine(), on_gpu("gpt_oss"))[0] == "flex_attention"
    assert choose(Machine(), on_gpu("mistral"))[0] == "varlen"
    assert varlen.fits(on_gpu(attention_dropout=0.1)) == "it has no soft caps, sinks or dropout on a GPU"
    assert "heads have 512 features" in str(varlen.fits(on_gpu(head_dim=512)))
    assert "flash_attn is not installed" in str(lacks(on_gpu(), package="flash_attn", least=(8, 0)))
    taken, note = choose(Machine(flash_attention=True), on_gpu())
    assert taken == "varlen"
    assert "flash_attn_interface is not installed; it is built from the folder hopper of flash-attention; varlen is taken" in str(note)
    assert choose(Machine(), on_gpu("falcon"))[0] == "sdpa"


def test_flash_attention_of_the_hub_has_to_be_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("axolotl_core.attention.flash.find_spec", lambda name: SimpleNamespace() if name == "kernels" else None)
    assert choose(Machine(), on_gpu())[0] == "varlen"
    assert choose(Machine(flash_attention=True), on_gpu()) == ("flash_attention_3", None)
    assert choose(Machine(attn_implementation="flash_attention_2"), on_gpu()) == ("flash_attention_2", None)


def test_either_kind_of_one_switch_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("axolotl_core.attention.flash.find_spec", lambda name: SimpleNamespace() if name == "flash_attn" else None)
    assert choose(Machine(flash_attention=True), on_gpu()) == ("flash_attention_2", None)
    assert choosing.why_not("flash_attention_3", on_gpu()) == (
        "flash_attn_interface is not installed; it is built from the folder hopper of flash-attention"
    )
