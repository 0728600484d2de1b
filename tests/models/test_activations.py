"""What is kept for the backward pass: less with each mode, and the same gradients."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig

from axolotl_core.adapters import lora
from axolotl_core.attention.choose import backend
from axolotl_core.models import activations
from axolotl_core.models.activations import checkpoint_layers
from axolotl_core.models.forward import ForwardSpec
from axolotl_core.objectives.sft import Objective
from axolotl_core.params.adapter import Adapter
from tests.rows_in_memory import CPU, LENGTHS, source


def llama() -> transformers.LlamaForCausalLM:
    backend("varlen")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="varlen")
    model.config.use_cache = False
    return model.train()


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*args, **kwargs or {})


def kept_bytes(run: Callable[[], torch.Tensor]) -> tuple[int, torch.Tensor]:
    """Of distinct tensors that the backward pass keeps."""
    sizes: dict[int, int] = {}

    def pack(kept: torch.Tensor) -> torch.Tensor:
        sizes[kept.untyped_storage().data_ptr()] = kept.untyped_storage().nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        loss = run()
    return sum(sizes.values()), loss


def trained(prepare: Callable[[torch.nn.Module], object], **settings) -> tuple[int, int, list[torch.Tensor]]:
    """Bytes kept outside checkpoints, products of matrices in the backward pass, gradients."""
    model = llama()
    prepare(model)
    kept, loss = kept_bytes(lambda: Objective(model, ForwardSpec(split=True), **settings).train()(source(LENGTHS).batch([0, 1]).place(CPU)))
    with Products() as products:
        loss.backward()
    return kept, products.count, [parameter.grad for parameter in model.parameters()]


def test_every_mode_gives_the_same_gradients_and_keeps_less():
    modes = {
        "false": lambda model: None,
        "true": lambda model: checkpoint_layers(model, selective=False),
        "selective": lambda model: checkpoint_layers(model, selective=True),
    }
    found = {name: trained(prepare) for name, prepare in modes.items()}
    for name in ("true", "selective"):
        for gradient, wanted in zip(found[name][2], found["false"][2], strict=True):
            assert torch.equal(gradient, wanted), name
        assert found[name][0] < found["false"][0] / 2
    plain, recomputed, selective = (found[name][1] for name in ("false", "true", "selective"))
    assert recomputed == plain + 2 * 7 - 2, "each product of both layers again, but for the last, whose result nothing needs"
    assert selective == plain, "no product again"


def test_offloaded_activations_give_the_same_gradients_and_weights_stay(monkeypatch: pytest.MonkeyPatch):
    """As on a GPU, from this device to this device's memory."""
    monkeypatch.setattr(activations, "LEAST_BYTES", 0)
    plain = trained(lambda model: None)
    assert all(map(torch.equal, trained(lambda model: None, offload=True)[2], plain[2]))
    model = llama()
    shapes = {tuple(parameter.shape) for parameter in model.parameters()}
    with activations.offloaded(model, CPU, 1) as moved:
        Objective(model, ForwardSpec(split=True)).train()(source(LENGTHS).batch([0]).place(CPU)).backward()
    assert len(moved) > 20
    assert not shapes & set(moved)
    with activations.offloaded(model, torch.device("meta"), 1) as moved:
        Objective(model, ForwardSpec(split=True)).train()(source(LENGTHS).batch([0]).place(CPU)).backward()
    assert moved == [], "what is not on the device stays where it is"


def test_under_autocast_lora_keeps_no_copy_of_its_input_in_fp32():
    """peft casts the input to the weights' fp32, which autocast rounds to 16 bits again: two copies kept for nothing."""
    adapter = Adapter(adapter="lora", lora_target_linear=True, lora_dropout=0.0)

    def kept(casting: bool) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(0)
        model = lora.attach(llama().bfloat16(), adapter).train()
        if not casting:
            lora.leave_casts_to_autocast(model)
        for module in model.modules():
            if isinstance(module, lora.LoraLayer):
                torch.nn.init.normal_(module.lora_B["default"].weight)
        objective = Objective(model, ForwardSpec(split=True), torch.bfloat16).train()
        size, loss = kept_bytes(lambda: objective(source(LENGTHS).batch([0, 1]).place(CPU)))
        loss.backward()
        return size, loss.detach(), [p.grad for p in model.parameters() if p.requires_grad]

    ours, theirs = kept(casting=False), kept(casting=True)
    assert ours[0] < 0.9 * theirs[0]
    assert torch.equal(ours[1], theirs[1])
    for mine, other in zip(ours[2], theirs[2], strict=True):
        assert torch.allclose(mine, other, rtol=0.05, atol=0.05 * float(other.abs().max()))


def test_what_is_kept_twice_is_moved_once_and_views_larger_than_their_tensor_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activations, "LEAST_BYTES", 0)
    weight = torch.nn.Linear(8, 8, bias=False)
    offload = activations.Offload(weight, CPU, tokens=3)
    rows, mask = torch.randn(3, 8), torch.ones(1, 1, 3, 3).expand(2, 4, 3, 3)
    (away,), (again,) = offload.pack(rows), offload.pack(rows)
    assert away is again
    assert offload.unpack((away,)).equal(rows)
    assert offload.pack(mask) is mask
    assert offload.pack(weight.weight) is weight.weight
    assert offload.pack(weight.weight.T) is not None
    cast = weight.weight.detach().bfloat16()
    assert offload.pack(cast) is cast, "autocast's copy of a weight"
    like_a_weight = torch.randn(8, 8)
    assert isinstance(activations.Offload(weight, CPU, tokens=8).pack(like_a_weight), tuple), "the input of 8 rows"
    rows.add_(1)
    assert offload.pack(rows)[0] is not away, "other numbers by now"
