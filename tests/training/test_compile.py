"""torch.compile with packed rows: inductor on a CPU, one compilation for all batches, the same gradients."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM

from axolotl_core.adapters import lora
from axolotl_core.attention.choose import backend
from axolotl_core.batches.rows import RowSource
from axolotl_core.models.activations import checkpoint_layers
from axolotl_core.models.forward import ForwardSpec
from axolotl_core.objectives.cross_entropy import loss_and_slope
from axolotl_core.objectives.sft import Objective
from axolotl_core.packing.plan import fit, lay_out
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine
from axolotl_core.training.setup import compile_layers
from tests.rows_in_memory import CPU, Memory


def rows() -> RowSource:
    """Rows of one length, with samples of all lengths and numbers."""
    lengths = np.random.default_rng(0).integers(5, 60, 60)
    pieces, _ = fit(0, lengths, 128, "drop")
    return RowSource(lay_out(pieces, 128, True), [Memory(lengths.tolist())], 0, 128, True)  # type: ignore[list-item]


def objective(method: str, checkpointing: bool, compiled: bool) -> Objective:
    backend("varlen")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="varlen")
    model.config.use_cache = False
    trained = lora.attach(model, Adapter(adapter="lora", lora_target_linear=True, lora_dropout=0.0)) if method == "lora" else model
    if checkpointing:
        checkpoint_layers(trained, selective=False)
    if compiled:
        assert compile_layers(model, Machine(torch_compile=True), CPU) == ()
    return Objective(trained, ForwardSpec(split=True)).train()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_nothing_is_compiled_again_after_the_second_step(method: str, checkpointing: bool):
    torch._dynamo.reset()
    counters.clear()
    ours, plain = (objective(method, checkpointing, compiled) for compiled in (True, False))
    source, graphs = rows(), []
    for step in range(6):
        inputs = source.batch([step]).place(CPU)
        losses = [one(inputs) for one in (ours, plain)]
        for loss in losses:
            loss.backward()
        assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len({len(source.batch([step]).place(CPU).sequences.lengths) for step in range(6)}) > 1, "rows of unlike samples"
    assert graphs[0] >= 4, "the layers are compiled, within checkpointing too"
    assert graphs[1:] == graphs[1:2] * 5
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert mine.grad is None or torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_body_of_the_output_layers_chunk_is_the_same_compiled(dtype: torch.dtype):
    """It is compiled on a GPU alone; here by inductor for the CPU."""
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 300).to(dtype), torch.randint(300, (50,))
    compiled = torch.compile(loss_and_slope, dynamic=True)
    rtol = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for got, wanted in zip(compiled(logits.clone(), labels, True, True), loss_and_slope(logits.clone(), labels, True, True), strict=True):
        assert torch.allclose(got.float(), wanted.float(), rtol=rtol, atol=1e-6)
    assert compiled(logits.clone(), labels, False, False)[1] is None
