"""An adapter folded into its base: W ← W + (alpha / r) B A, in the base's own dtype."""

from pathlib import Path

from axolotl_core.adapters.trained import load_trained
from axolotl_core.artifacts import manifest
from axolotl_core.params.machine import Machine


def merge(adapter: Path, base: Path, out: Path, *, vocabulary: int) -> None:
    """Write a whole model of safetensors to `out`; a model trained whole is written as it is.

    adapter: artifacts/adapter; base: a folder with the base's weights. Raises ModelError when they do not fit.
    """
    loaded = load_trained(adapter, base, Machine(device="cpu"), vocabulary=vocabulary, packed=False)
    whole = manifest.read(adapter)["kind"] == "full"
    model = loaded.model if whole else loaded.model.merge_and_unload(safe_merge=True)
    model.config.use_cache = True
    model.save_pretrained(out)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)
