"""What machine.fsdp, fsdp_config and deepspeed ask for, in one spelling, and what they cannot be had with.

`fsdp` and `fsdp_config` are read as Axolotl's README writes them; it is always FSDP 2 that runs. A DeepSpeed file says how memory is
shared out, never how weights move: optimizer, schedule, clipping, batch size and dtype are those of params.yaml.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.machine import Machine
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.params import Params

SHIPPED = ("zero1", "zero2", "zero3")
"""DeepSpeed files in pipelines/deepspeed/, by name."""
FLAGS = ("full_shard", "shard_grad_op", "auto_wrap", "offload")
IMPLIED = (
    "activation_checkpointing",
    "auto_wrap_policy",
    "backward_prefetch",
    "backward_prefetch_policy",
    "cpu_offload_pin_memory",
    "cpu_ram_efficient_loading",
    "final_state_dict_type",
    "forward_prefetch",
    "limit_all_gathers",
    "min_num_params",
    "mixed_precision_policy",
    "state_dict_type",
    "sync_module_states",
    "use_orig_params",
)
"""Settings of fsdp_config that have one right value here: layers are wrapped, checkpoints hold all weights."""
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
    """reshard: weights are given up again after the forward pass (full_shard). layers: class names, empty: the model's own. hybrid: the
    processes of one machine share a model, and each machine has all of it."""

    reshard: bool = True
    offload: bool = False
    layers: tuple[str, ...] = ()
    hybrid: bool = False


def unsupported(params: Params, strategy: str) -> str | None:
    """What each process must hold all of under `fsdp` or `deepspeed`, so that these cannot be had with it; None if there is nothing."""
    if params.adapter.relora_steps is not None:
        return "weights that ReLoRA merges"
    for kind in ("load_in_8bit", "load_in_4bit", "gptq"):
        if getattr(params.model, kind):
            return f"a quantised base ({kind})"
    sharded = strategy in OPTIMIZERS[params.training.optimizer].sharded_by
    return None if sharded else f"the state of {params.training.optimizer}"


def fsdp_of(machine: Machine) -> Fsdp | None:
    """None without fsdp. Raises ParamsError for a flag or a setting that is not known."""
    if not machine.fsdp:
        return None
    flags = [flag for text in machine.fsdp for flag in text.split()] if isinstance(machine.fsdp, list) else ["full_shard"]
    for flag in flags:
        if flag not in FLAGS:
            raise ParamsError(f"machine.fsdp: got '{flag}', wanted some of {', '.join(FLAGS)}{nearest(flag, FLAGS)}")
    config = {key.removeprefix("fsdp_"): value for key, value in machine.fsdp_config.items()}
    known = ("version", "offload_params", "cpu_offload", "reshard_after_forward", "sharding_strategy", "transformer_layer_cls_to_wrap")
    for key in config:
        if key not in (*known, *IMPLIED):
            raise ParamsError(f"machine.fsdp_config: '{key}' is not a setting of FSDP{nearest(key, known)}")
    version = str(config.get("version", 2))
    if version not in ("1", "2"):
        raise ParamsError(f"machine.fsdp_config: version is {version}, wanted 1 or 2")
    reshard, hybrid = "shard_grad_op" not in flags, False
    if "sharding_strategy" in config:  # FSDP 1's name for it, a word or a number
        reshard, hybrid = _of(STRATEGIES, "sharding_strategy", config["sharding_strategy"], "FULL_SHARD, SHARD_GRAD_OP or HYBRID_SHARD")
    if "reshard_after_forward" in config:
        reshard = _of(RESHARD, "reshard_after_forward", config["reshard_after_forward"], "true or false")
    offload = "offload" in flags
    for key in ("cpu_offload", "offload_params"):
        if key in config:
            offload = _switch(key, config[key])
    layers = config.get("transformer_layer_cls_to_wrap") or ()
    layers = layers.split(",") if isinstance(layers, str) else layers
    if not isinstance(layers, list | tuple) or not all(isinstance(layer, str) for layer in layers):
        raise ParamsError(f"machine.fsdp_config: transformer_layer_cls_to_wrap is {layers}, wanted names of classes")
    return Fsdp(reshard, offload, tuple(layer.strip() for layer in layers), hybrid)


STRATEGIES = {
    **dict.fromkeys(("FULL_SHARD", "1"), (True, False)),
    **dict.fromkeys(("SHARD_GRAD_OP", "2"), (False, False)),
    **dict.fromkeys(("HYBRID_SHARD", "4"), (True, True)),
    **dict.fromkeys(("HYBRID_SHARD_ZERO2", "5"), (False, True)),
}
"""sharding_strategy in accelerate's names and numbers → reshard, hybrid."""
NO_SHARD = ("NO_SHARD", "3")
"""The one that shards nothing; params/fallbacks.py puts DDP in its place."""
RESHARD = {"TRUE": True, "FALSE": False, "FULL_SHARD": True, "SHARD_GRAD_OP": False}


def _of(known: Mapping[str, Any], key: str, value: Any, wanted: str) -> Any:
    name = str(value).upper()
    if name not in known:
        raise ParamsError(f"machine.fsdp_config: {key} is {value}, wanted {wanted}{nearest(name, known)}")
    return known[name]


def _switch(key: str, value: Any) -> bool:
    """true or false, which accelerate's files write as text. Raises ParamsError for anything else."""
    name = str(value).lower()
    if name not in ("true", "false"):
        raise ParamsError(f"machine.fsdp_config: {key} is {value}, wanted true or false")
    return name == "true"


def deepspeed_of(machine: Machine, root: Path) -> tuple[dict[str, Any], list[str]] | None:
    """The file's settings without those that params.yaml decides, and sentences about these. None without deepspeed.

    Raises ParamsError: no such file, not JSON, no ZeRO stage.
    """
    if machine.deepspeed is None:
        return None
    shipped = resources.files("axolotl_core.pipelines").joinpath(f"deepspeed/{machine.deepspeed}.json")
    file = Path(str(shipped)) if machine.deepspeed in SHIPPED else root / machine.deepspeed
    try:
        settings = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError:
        raise ParamsError(f"machine.deepspeed: there is no file {file}; {', '.join(SHIPPED)} come with axolotl") from None
    except ValueError as error:
        raise ParamsError(f"machine.deepspeed: {file} is not JSON: {error}") from None
    zero = settings.get("zero_optimization") if isinstance(settings, dict) else None
    if not isinstance(zero, dict) or not isinstance(zero.get("stage"), int):
        raise ParamsError(f"machine.deepspeed: {file} has no zero_optimization.stage; set it to 1, 2 or 3")
    set_there = [key for key in DECIDED if settings.pop(key, "auto") != "auto"]
    return settings, [f"{file}: {', '.join(set_there)} not used: params.yaml decides"] if set_there else []
