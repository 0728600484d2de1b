"""Every optimizer by name, and what LoRA+ and ReLoRA want of them."""

import pytest
import torch

from axolotl_core.optim.groups import reset_state, set_lr_and_betas
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.flat.values import SAME_OPTIMIZERS
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.training import Training


def test_what_a_removed_optimizer_is_replaced_by_exists():
    assert {living for living, _ in SAME_OPTIMIZERS.values()} <= set(OPTIMIZERS)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_lowers_a_quadratic(name: str, not_compiled: None):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(128, 64))  # above 4,096 values, where 8-bit states begin
    optimizer = make_optimizer([("w", weight)], Training(optimizer=name, learning_rate=0.05), Adapter())
    before = float(weight.detach().square().mean())
    for _ in range(20):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert float(weight.detach().square().mean()) < before * 0.7
    if "8bit" in name and "torch" not in name:
        assert torch.uint8 in {value.dtype for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused"])
def test_betas_and_epsilon_reach_adam(name: str):
    training = Training(optimizer=name, adam_beta1=0.0, adam_beta2=0.5, adam_epsilon=1e-3)
    group = make_optimizer([("w", torch.nn.Parameter(torch.ones(2, 2)))], training, Adapter()).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.0, 0.5), 1e-3)


@pytest.mark.parametrize(("everywhere", "decays"), [(False, {"w": 0.5, "b": 0.0}), (True, {"w": 0.5, "b": 0.5})])
def test_norms_and_biases_do_not_decay_unless_asked(everywhere: bool, decays: dict):
    named = {"w": torch.nn.Parameter(torch.ones(2, 2)), "b": torch.nn.Parameter(torch.ones(2))}
    training = Training(weight_decay=0.5, decay_norms_and_biases=everywhere)
    optimizer = make_optimizer(named.items(), training, Adapter())
    found = {n: group["weight_decay"] for n, p in named.items() for group in optimizer.param_groups if any(p is q for q in group["params"])}
    assert found == decays


def test_frozen_parameters_are_left_out():
    named = [("w", torch.nn.Parameter(torch.ones(2, 2))), ("f", torch.nn.Parameter(torch.ones(2, 2), requires_grad=False))]
    optimizer = make_optimizer(named, Training(), Adapter())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1


def test_lora_plus_gives_b_its_own_rate():
    named = [(name, torch.nn.Parameter(torch.ones(2, 2))) for name in ("q.lora_A.default.weight", "q.lora_B.default.weight")]
    named.append(("e.lora_embedding_A.default", torch.nn.Parameter(torch.ones(2, 2))))
    optimizer = make_optimizer(named, Training(learning_rate=1e-3), Adapter(loraplus_lr_ratio=16))
    set_lr_and_betas(optimizer, 5e-4, None)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 8e-3, 5e-7])


def stepped() -> tuple[torch.optim.Optimizer, torch.nn.Parameter, torch.nn.Parameter]:
    torch.manual_seed(0)
    one, other = (torch.nn.Parameter(torch.randn(10, 10)) for _ in range(2))
    optimizer = make_optimizer([("one", one), ("other", other)], Training(learning_rate=0.1), Adapter())
    (one.pow(3).sum() + other.pow(3).sum()).backward()
    optimizer.step()
    return optimizer, one, other


def test_a_restart_resets_the_state_of_its_own_parameters_only():
    optimizer, one, other = stepped()
    reset_state(optimizer, [one], keep=0)
    assert one not in optimizer.state
    assert other in optimizer.state


def test_a_restart_can_prune_the_smallest():
    optimizer, one, _ = stepped()
    before = optimizer.state[one]["exp_avg"].clone()
    reset_state(optimizer, [one], keep=0.1)
    kept = optimizer.state[one]["exp_avg"]
    assert int((kept != 0).sum()) == 10
    assert before.abs()[kept != 0].min() >= before.abs()[kept == 0].max()
