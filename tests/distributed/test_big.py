"""Models that no machine of ours holds, planned without a weight in memory; and what a small one takes against what was estimated."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaConfig, MixtralConfig

from axolotl_core.adapters import lora
from axolotl_core.adapters.merge_lora import LoraMerge
from axolotl_core.distributed.layers import layers
from axolotl_core.distributed.memory import SHARDINGS, estimate
from axolotl_core.models.flops import training_flops
from axolotl_core.models.precision import Precision
from axolotl_core.models.shape import model_on_meta
from axolotl_core.models.weights import Weights
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.training import Training
from tests.distributed import jobs
from tests.distributed.test_sharding import small
from tests.distributed.workers import Workers

BF16 = Precision("bf16", torch.bfloat16, torch.float32, torch.bfloat16)
ADAMW = OPTIMIZERS["adamw_torch_fused"]
GIB = 2**30
LLAMA_70B = LlamaConfig(
    vocab_size=128256,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    dtype="bfloat16",
)
MIXTRAL = MixtralConfig(dtype="bfloat16")  # 8 × 7 B is what it is by itself
MODELS = {"llama 70B": (LLAMA_70B, 70_553_706_496, 80), "mixtral 8x7B": (MIXTRAL, 46_702_792_704, 32)}


@pytest.fixture(params=MODELS)
def big(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int, int]:
    """(a folder with a config alone, numbers of the model, its layers)"""
    config, numbers, count = MODELS[request.param]
    config.save_pretrained(tmp_path)
    return tmp_path, numbers, count


def test_what_a_big_model_needs_is_known_before_a_weight_is_read(big: tuple[Path, int, int]):
    folder, numbers, count = big
    model = model_on_meta(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == numbers
    assert len(layers(model)) == count
    found = {
        name: estimate(model, BF16, ADAMW, name, 16, 4096, accumulates=False, recomputes=True) for name in SHARDINGS if name != "single"
    }
    assert found["ddp"].weights + found["ddp"].gradients + found["ddp"].optimizer == numbers * (4 + 2 + 4 + 8)
    assert found["zero1"].optimizer == found["zero2"].optimizer == found["zero3"].optimizer == -(-numbers * 12 // 16)
    assert found["zero1"].gradients == 16 * found["zero2"].gradients == 2 * numbers
    for name in ("fsdp", "zero3"):
        whole = numbers * 16
        assert whole / 16 < found[name].total < whole / 16 + 40 * GIB, "its part, some layers and what is kept for the backward pass"
    kept = found["fsdp"].activations / GIB
    assert kept < 16
    assert estimate(model, BF16, ADAMW, "fsdp", 16, 4096, accumulates=False).activations / GIB > 5 * kept
    adapted = lora.attach(model, Adapter(adapter="qlora", lora_r=16, lora_target_modules=["q_proj", "v_proj"]))
    four_bit = estimate(adapted, BF16, ADAMW, "single", 1, 4096, accumulates=False, recomputes=True, bits=4)
    plain = estimate(adapted, BF16, ADAMW, "single", 1, 4096, accumulates=False, recomputes=True)
    assert 1.99 * numbers < plain.weights < 2.01 * numbers
    assert four_bit.optimizer < 0.01 * plain.weights
    if "llama" in model.config.model_type:
        assert 0.51 * numbers < four_bit.weights < 0.6 * numbers
        assert training_flops(adapted).of([4096], 4096) == pytest.approx(4 * numbers * 4096, rel=0.15)


@pytest.fixture(scope="module")
def three() -> Iterator[Workers]:
    group = Workers(3)
    yield group
    group.close()


def test_a_checkpoint_of_a_big_model_is_divided_among_the_processes(big: tuple[Path, int, int], three: Workers):
    folder, numbers, _ = big
    first, middle, last = three.run(jobs.layout, folder, 8, [0, 3, 7])
    assert first.keys() == middle.keys() == last.keys()
    assert sum(total for _, _, total in first.values()) == numbers
    for parts in (first, middle, last):
        assert sum(length for _, length, _ in parts.values()) == pytest.approx(numbers / 8, rel=1e-4)
    for key, (start, length, total) in first.items():
        assert start == 0
        assert length <= middle[key][0]
        assert sum(middle[key][:2]) <= last[key][0]
        assert sum(last[key][:2]) == total, "the last process has the end"


def hollow(file: Path, shapes: dict[str, torch.Size], bytes_each: int, dtype: str) -> None:
    """A file of safetensors with a header and a hole where the numbers would be, which takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + shape.numel() * bytes_each
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + end)


def test_merging_a_big_model_is_planned_by_shards(tmp_path: Path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    adapter.mkdir()
    LLAMA_70B.save_pretrained(base)
    model = model_on_meta(base)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shards = [list(shapes)[first : first + 24] for first in range(0, len(shapes), 24)]
    files = {name: f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i, names in enumerate(shards) for name in names}
    for names in shards:
        hollow(base / files[names[0]], {name: shapes[name] for name in names}, 2, "BF16")
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    attached = lora.attach(model, Adapter(adapter="lora", lora_r=64, lora_target_linear=True))
    config: LoraConfig = attached.peft_config["default"]
    config.base_model_name_or_path = str(base)
    config.save_pretrained(adapter)
    trained = {lora.file_name(name): parameter.shape for name, parameter in attached.named_parameters() if parameter.requires_grad}
    hollow(adapter / lora.WEIGHTS, trained, 4, "F32")
    plan = LoraMerge(adapter, base)
    assert plan.by_shards
    assert len(plan.by_name) == 80 * 7
    assert sum(file.stat().st_size for file in base.glob("*.safetensors")) > 130 * GIB
    assert set(Weights(base).files) == set(shapes)
    with torch.no_grad():
        norm = torch.ones(8192, dtype=torch.bfloat16)
        assert plan.changed("model.layers.79.input_layernorm.weight", norm) is norm


SHAPES = {
    "wide": ((512, 1536, 6, 8192), Adapter(), Training(), 1024),
    "deep, lora": ((256, 768, 16, 4096), jobs.LORA, Training(), 2048),
    "few tokens": ((768, 2048, 8, 16384), Adapter(), Training(), 128),
}
"""Width, width of the MLP, layers, vocabulary; how it is trained; tokens of a row."""


ALONE = [(shape, 1, {}) for shape in SHAPES]
TOGETHER = [("few tokens", 2, {"fsdp": ["full_shard"]}), ("wide", 2, {"fsdp": ["full_shard"]}), ("wide", 2, {"deepspeed": "zero2"})]


@pytest.mark.parametrize(("shape", "ranks", "machine"), [*ALONE, *TOGETHER])
def test_the_estimate_is_what_a_step_takes(tmp_path: Path, shape: str, ranks: int, machine: dict):
    (hidden, inner, count, words), *job = SHAPES[shape]
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": count, "vocab_size": words}
    small(tmp_path, num_attention_heads=8, max_position_embeddings=4096, **sizes)
    group = Workers(ranks)
    for peak, found in group.run(jobs.peak_of_training, tmp_path, machine, *job):
        assert found.total == pytest.approx(peak, rel=0.2), found
    group.close()
