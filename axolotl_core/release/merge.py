"""One model out of base and adapter, in the base's own number format."""

import json
import shutil
from pathlib import Path

from axolotl_core.adapters import lora
from axolotl_core.adapters.fold import Fold
from axolotl_core.artifacts import manifest
from axolotl_core.errors import ModelError
from axolotl_core.models.load import load_model
from axolotl_core.models.weights import save_model
from axolotl_core.params.machine import Machine


def merge(adapter: Path, base: Path, out: Path, *, vocabulary: int) -> str:
    """Write a whole model of safetensors to `out` and say how; a model trained whole is copied.

    adapter: artifacts/adapter; base: a folder with the full-precision base, however training had quantised it. On the
    CPU, shard by shard; a base that has no rows for added tokens, or whose files have names of their own, is loaded whole.
    Raises ModelError when the two do not fit.
    """
    if manifest.read(adapter)["kind"] == "full":
        for file in adapter.iterdir():
            if file.name != manifest.FILE:
                shutil.copyfile(file, out / file.name)
        return "copied, it was trained whole"
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise ModelError(f"{base}: the base is stored quantised ({method}), so there are no whole weights to merge into; use the adapter")
    fold = Fold(adapter, base)
    if fold.by_shards and config.get("vocab_size", vocabulary) >= vocabulary:
        fold.write(out)
        return "merged shard by shard"
    loaded = load_model(base, Machine(device="cpu"), vocabulary=vocabulary, packed=False)
    model = lora.apply(loaded.model, adapter).merge_and_unload(safe_merge=True)
    model.config.use_cache = True
    save_model(model, out)
    return "merged in memory"
