"""One model out of base and adapter, in the dtype of the base, and the proof that it is that model.

1. merged shard by shard   where the base's files have the names and rows that the adapter is about
2. base and adapter        logits of the base, and with the adapter beside it
3. merged in memory        each weight is added to in fp32 and rounded once; this is what is written where 1 could not be
4. what was written        is loaded, and its logits must be those of 3
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from axolotl_core.adapters import lora
from axolotl_core.adapters.merge_lora import LoraMerge, merge_in_memory
from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.link import link
from axolotl_core.errors import ModelError
from axolotl_core.models.load import load_model
from axolotl_core.models.weights import load_on_cpu, save_model
from axolotl_core.params.machine import Machine

PROBE = (2, 16)
"""Rows and tokens that the logits are compared on: drawn from the whole vocabulary, so that added tokens are among them."""
NOISE = 1e-4
"""Differences of logits that are none, as a share of the largest."""


def merge(adapter: Path, base: Path, out: Path, *, vocabulary: int) -> str:
    """Write a full model of safetensors to `out` and say how; a full fine-tune is copied.

    adapter: artifacts/adapter; base: a folder with the full-precision base, however training had quantised it. On the CPU, where
    one copy of the model in the base's dtype must fit.
    Raises ModelError when the two do not fit, or when what was written is not the model that was merged.
    """
    if manifest.read(adapter)["kind"] == "full":
        for file in adapter.iterdir():
            if file.name != manifest.FILE:
                link(file, out / file.name)
        return "a full fine-tune, as it was trained"
    config = json.loads((base / "config.json").read_text(encoding="utf-8-sig"))
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise ModelError(f"{base}: the base is stored quantised ({method}), so there are no full weights to merge into; use the adapter")
    fold = LoraMerge(adapter, base)
    by_shards = fold.by_shards and config.get("vocab_size", vocabulary) >= vocabulary
    if by_shards:
        fold.write(out)
    loaded = load_model(base, Machine(device="cpu"), vocabulary=vocabulary, packed=False)
    dtypes = {name: parameter.dtype for name, parameter in loaded.model.named_parameters()}
    model = lora.apply(loaded.model, adapter).eval()
    ids = torch.randint(vocabulary, PROBE, generator=torch.Generator().manual_seed(0))
    with model.disable_adapter():
        before = _logits(model, ids)
    trained = _logits(model, ids)
    merged = merge_in_memory(model)
    for name, parameter in merged.named_parameters():  # lora_modules_to_save are fp32
        parameter.data = parameter.data.to(dtypes[name])
    wanted = _logits(merged, ids)
    if not by_shards:
        merged.config.use_cache = True
        save_model(merged, out)
    del loaded, model, merged  # memory for one model is asked for, not for two
    _agree(out, _logits(load_on_cpu(out).eval(), ids), wanted, before)
    rounding, effect = float((wanted - trained).abs().max()), float((before - trained).abs().max())
    message = "shard by shard" if by_shards else "in memory"
    return f"merged {message}, logits as base and adapter to {rounding:.1g} (training moved them by {effect:.2g})"


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def _agree(out: Path, found: Tensor, wanted: Tensor, before: Tensor) -> None:
    """A weight that was forgotten shows as a good part of what training did, however little that was."""
    difference, effect = float((found - wanted).abs().max()), float((before - wanted).abs().max())
    if not difference <= max(NOISE * float(wanted.abs().max()), effect / 10):
        raise ModelError(
            f"{out}: the merged model as it was written has other logits than base and adapter, by {difference:.2g} where training "
            f"moved them by {effect:.2g}; nothing was exported, the adapter is whole"
        )
