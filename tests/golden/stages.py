"""What each stage made of a small fixed project, by the stage's revision: tests/golden/stages.json.

    fetch … pack           the digest of the artifact, equal to the bit on every machine
    train … export         numbers of what was made, since sums of floats differ in their last bits from CPU to CPU

python -m tests.golden.stages      writes the file anew; raise the revision in stages/graph.py of a stage whose entry has changed
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from axolotl_core.artifacts import manifest
from axolotl_core.cli.project import open_project
from axolotl_core.stages.graph import STAGES, steps
from axolotl_core.stages.run import run
from tests.conftest import ALPACA, PARAMS, TALKS, write_jsonl

FILE = Path(__file__).parent / "stages.json"
EXACT = ("fetch", "fetch-tokenizer", "fetch-model", "tokenize", "pack")
PARAMS_WITHOUT_CHANCE = PARAMS.replace("  lora_dropout: 0.1\n", "").replace("num_epochs: 2", "max_steps: 3")
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "dtype": "float32",
}


def make_project(folder: Path, tokenizer: Path) -> None:
    """params.yaml, data and a llama whose weights numpy draws, which are the same on every machine."""
    model = folder / "model"
    shutil.copytree(tokenizer, model)
    (model / "config.json").write_text(json.dumps(SHAPE, indent=1))
    shapes = {"model.embed_tokens.weight": (512, 32), "lm_head.weight": (512, 32), "model.norm.weight": (32,)}
    for layer in ("model.layers.0", "model.layers.1"):
        shapes |= {f"{layer}.{norm}_layernorm.weight": (32,) for norm in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (16 if name in "kv" else 32, 32) for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (64, 32) for name in ("gate", "up")} | {f"{layer}.mlp.down_proj.weight": (32, 64)}
    draw = np.random.default_rng(0)
    weights = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else (draw.integers(-1000, 1001, shape) / 4000).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (folder / "data").mkdir()
    write_jsonl(folder / "data" / "sums.jsonl", ALPACA)
    (folder / "data" / "talks.json").write_text(json.dumps(TALKS), encoding="utf-8")
    (folder / "params.yaml").write_text(PARAMS_WITHOUT_CHANCE, encoding="utf-8")


def made_by_stages(folder: Path) -> dict[str, Any]:
    """Step → its revision and what it made. The project is the current folder."""
    project, params = open_project(Path("params.yaml"))
    for target in ("export", "evaluate"):
        run(project, params, target)
    found = {}
    for step in steps(params.datasets):
        out = folder / "artifacts" / step.output
        made: Any = manifest.artifact_digest(out) if step.stage.name in EXACT else numbers(out)
        found[step.name] = {"revision": step.stage.revision, "made": made}
    return found


def numbers(out: Path) -> dict[str, Any]:
    """Of tensors their shapes and three sums, of the report its metrics; names of all files."""
    found: dict[str, Any] = {"files": sorted(path.name for path in out.iterdir())}
    for file in sorted(out.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            values = tensor.astype(np.float64)
            found[name] = [list(tensor.shape), str(tensor.dtype), values.sum(), np.abs(values).sum(), (values**2).sum()]
    if (out / "report.json").exists():
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        found |= {when: report[when] for when in ("before", "after")}
        found["prompts"] = [reply["prompt"] for reply in report["replies"]]
    if (out / "config.json").exists():
        found["config"] = json.loads((out / "config.json").read_text(encoding="utf-8"))
        found["config"].pop("transformers_version", None)
    return found


def main() -> None:
    from tests.conftest import small_tokenizer

    with tempfile.TemporaryDirectory() as name:
        folder, tokenizer = Path(name) / "project", Path(name) / "tokenizer"
        folder.mkdir()
        small_tokenizer(tokenizer)
        make_project(folder, tokenizer)
        os.chdir(folder)
        FILE.write_text(json.dumps(made_by_stages(folder), indent=1) + "\n", encoding="utf-8")
        os.chdir(FILE.parent)


assert {stage.name for stage in STAGES} >= set(EXACT)
if __name__ == "__main__":
    main()
