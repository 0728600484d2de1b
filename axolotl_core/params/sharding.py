"""What machine.fsdp, fsdp_config and deepspeed ask for, in one spelling.

`fsdp` and `fsdp_config` are read as Axolotl's README writes them; FSDP 2 is the default, `fsdp_config: {version: 1}` asks
for the old one. A DeepSpeed file says how memory is shared out, never how weights move: optimizer, schedule, clipping,
batch size and number format are those of params.yaml.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.machine import Machine

SHIPPED = ("zero1", "zero2", "zero3")
"""DeepSpeed files in pipelines/deepspeed/, by name."""
FLAGS = ("full_shard", "shard_grad_op", "auto_wrap", "offload")
IMPLIED = (
    "auto_wrap_policy",
    "backward_prefetch",
    "backward_prefetch_policy",
    "cpu_ram_efficient_loading",
    "forward_prefetch",
    "limit_all_gathers",
    "sharding_strategy",
    "state_dict_type",
    "sync_module_states",
    "use_orig_params",
)
"""Settings of fsdp_config that have one right value here: layers are wrapped, checkpoints are whole."""
DECIDED = (
    "optimizer",
    "scheduler",
    "gradient_clipping",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
)
"""Keys of a DeepSpeed file that params.yaml decides."""


@dataclass(frozen=True)
class Fsdp:
    """reshard: weights are given up again after the forward pass (full_shard). layers: class names, empty: the model's own."""

    version: int = 2
    reshard: bool = True
    offload: bool = False
    layers: tuple[str, ...] = ()


def fsdp_of(machine: Machine) -> Fsdp | None:
    """None without fsdp. Raises ParamsError for a flag or a setting that is not known."""
    if not machine.fsdp:
        return None
    flags = [flag for text in machine.fsdp for flag in text.split()] if isinstance(machine.fsdp, list) else ["full_shard"]
    for flag in flags:
        if flag not in FLAGS:
            raise ParamsError(f"machine.fsdp: got '{flag}', wanted some of {', '.join(FLAGS)}{nearest(flag, FLAGS)}")
    config = {key.removeprefix("fsdp_"): value for key, value in machine.fsdp_config.items()}
    known = ("version", "offload_params", "cpu_offload", "reshard_after_forward", "transformer_layer_cls_to_wrap")
    for key in config:
        if key == "activation_checkpointing":
            raise ParamsError("machine.fsdp_config: activation_checkpointing is machine.gradient_checkpointing here; set that")
        if key not in (*known, *IMPLIED):
            raise ParamsError(f"machine.fsdp_config: '{key}' is no setting of FSDP{nearest(key, known)}")
    if config.get("version", 2) not in (1, 2):
        raise ParamsError(f"machine.fsdp_config: version is {config['version']}, wanted 1 or 2")
    layers = config.get("transformer_layer_cls_to_wrap") or ()
    return Fsdp(
        config.get("version", 2),
        bool(config.get("reshard_after_forward", "shard_grad_op" not in flags)),
        bool(config.get("offload_params", config.get("cpu_offload", "offload" in flags))),
        tuple(layers.split(",") if isinstance(layers, str) else layers),
    )


def deepspeed_of(machine: Machine, root: Path) -> tuple[dict[str, Any], list[str]] | None:
    """The file's settings without those that params.yaml decides, and sentences about these. None without deepspeed.

    Raises ParamsError: no such file, not JSON, no ZeRO stage.
    """
    if machine.deepspeed is None:
        return None
    shipped = resources.files("pipelines").joinpath(f"deepspeed/{machine.deepspeed}.json")
    file = Path(str(shipped)) if machine.deepspeed in SHIPPED else root / machine.deepspeed
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ParamsError(f"machine.deepspeed: there is no file {file}; {', '.join(SHIPPED)} come with axolotl") from None
    except ValueError as error:
        raise ParamsError(f"machine.deepspeed: {file} is not JSON: {error}") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("zero_optimization", {}).get("stage"), int):
        raise ParamsError(f"machine.deepspeed: {file} has no zero_optimization.stage; set it to 1, 2 or 3")
    set_there = [key for key in DECIDED if settings.pop(key, "auto") != "auto"]
    return settings, [f"{file}: {', '.join(set_there)} not used: params.yaml decides"] if set_there else []
