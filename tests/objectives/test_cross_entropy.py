"""The loss as a sum over target tokens, and noise on embeddings."""

import copy
from pathlib import Path

import pytest
import torch

from axolotl_core.kernels import chunked
from axolotl_core.models.forward import ForwardSpec, forward
from axolotl_core.objectives import cross_entropy as loss
from axolotl_core.objectives.cross_entropy import loss_sum
from axolotl_core.objectives.sft import Objective, sample_lengths
from tests.rows_in_memory import CPU, LENGTHS, SPLIT, TOGETHER, source


@pytest.mark.parametrize("how", [SPLIT, TOGETHER])
@pytest.mark.parametrize("chunk", [2**26, 4 * 512 * 3])
def test_the_loss_and_its_gradient_are_those_of_full_logits(model, how: ForwardSpec, chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", chunk)
    batch = source(LENGTHS).batch([0, 1, 2])
    logits = forward(model, batch.ids_BT, batch.positions_BT, ForwardSpec())
    wanted = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels_BT[:, 1:].flatten(), reduction="sum")
    wanted.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    got = loss_sum(model, batch.place(CPU), how)
    (got / 3).backward()
    assert torch.allclose(got, wanted, rtol=1e-5)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert torch.allclose(parameter.grad * 3, gradient, atol=1e-3, rtol=1e-4)


def test_a_head_that_is_no_plain_layer_gives_the_same_loss(model, monkeypatch: pytest.MonkeyPatch):
    inputs = source(LENGTHS).batch([0, 1]).place(CPU)
    wanted = loss_sum(model, inputs, SPLIT)
    wanted.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(loss, "is_plain", lambda head: False)
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", 4 * 512 * 3)
    got = loss_sum(model, inputs, SPLIT)
    got.backward()
    assert torch.allclose(got, wanted, rtol=1e-6)
    assert all(torch.allclose(g, p.grad, atol=1e-5) for g, p in zip(gradients, model.parameters(), strict=True))


def test_no_more_logits_are_held_than_a_chunk(model):
    """A vocabulary of 128 k at 8 k tokens would be 4 GiB of logits; here 2,000 tokens × 60,000 words are 458 MiB."""
    torch.manual_seed(0)
    states, weight = torch.randn(2000, 8, requires_grad=True), torch.randn(60_000, 8)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), settings=None):
            nonlocal largest
            out = function(*arguments, **(settings or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel() * out.element_size())
            return out

    with Watch():
        loss.LinearCrossEntropy.apply(states, weight, None, torch.randint(60_000, (2000,))).backward()
    assert largest <= chunked.CHUNK_BYTES["cpu"] < 2000 * 60_000 * 4


def test_packing_changes_no_loss(model):
    packed, alone = source(LENGTHS), source(LENGTHS, packed=False)
    sums = [sum(float(loss_sum(model, s.batch([i]).place(CPU), SPLIT).detach()) for i in range(len(s))) for s in (packed, alone)]
    targets = [s.targets(range(len(s))) for s in (packed, alone)]
    assert len(packed) < len(alone)
    assert targets[0] == targets[1] == sum(packed.batch([i]).targets for i in range(len(packed)))
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_noise_on_embeddings_is_of_the_samples_length_and_for_training_only(model, tmp_path: Path):
    assert sample_lengths(torch.tensor([[0, 1, 2, 0, 1, 0]])).tolist() == [[3, 3, 3, 2, 2, 1]]
    inputs = source(LENGTHS).batch([0]).place(CPU)
    plain = Objective(model, SPLIT)(inputs)
    noisy = Objective(copy.deepcopy(model), SPLIT, None, 5.0)
    assert not torch.equal(noisy.train()(inputs), plain)
    assert torch.equal(noisy.eval()(inputs), plain)
