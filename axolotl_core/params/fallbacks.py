"""What of the machine section does not fit the rest of params.yaml, and what is taken in its place.

Only train and `axolotl check` look at this: the machine section says how, and no data is prepared otherwise for it. What depends on
the model's class (attention) is chosen when the model is loaded.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from axolotl_core.errors import MachineError, ParamsError
from axolotl_core.params.machine import Machine
from axolotl_core.params.params import Params
from axolotl_core.params.sharding import NO_SHARD, fsdp_of, unsupported

LAYERS = "PyTorch's own layers run"
LOSS = "logits are made a few positions at a time, so they need no kernel of their own"
KERNELS = {
    "flash_attn_fuse_qkv": LAYERS,
    "flash_attn_fuse_mlp": LAYERS,
    "liger_rms_norm_gated": LAYERS,
    "liger_layer_norm": LAYERS,
    "liger_use_token_scaling": LOSS,
    "lora_mlp_kernel": LAYERS,
    "lora_qkv_kernel": LAYERS,
    "lora_o_kernel": LAYERS,
    "lora_embedding_kernel": LAYERS,
    "unsloth_cross_entropy_loss": LOSS,
    "unsloth_lora_mlp": LAYERS,
    "unsloth_lora_qkv": LAYERS,
    "unsloth_lora_o": LAYERS,
    "unsloth_rms_norm": LAYERS,
    "unsloth_rope": LAYERS,
}
"""Kernels that this version has not → what runs."""
Change = tuple[str, dict[str, Any], str]
"""(option, what the machine section becomes, what is taken)"""


def settle(params: Params) -> tuple[Params, list[str]]:
    """The params with a machine section that fits, and a sentence for each preference that is not met.

    Raises ParamsError for settings of fsdp that are none, and for fsdp beside deepspeed; MachineError for an unmet preference where
    machine.allow_fallback is false.
    """
    if params.machine.fsdp and params.machine.deepspeed:
        raise ParamsError("machine.fsdp and machine.deepspeed are both set, and each shards the same weights; keep one")
    notices: list[str] = []
    for changes in (_attention, _kernels, _offload, _reentrant, _ddp, partial(_fsdp, params=params), partial(_deepspeed, params=params)):
        for option, update, taken in changes(params.machine):
            notices.append(f"machine.{option}: {taken}")
            params = params.model_copy(update={"machine": params.machine.model_copy(update=update)})
    if notices and not params.machine.allow_fallback:
        raise MachineError("\n".join(f"{notice} (machine.allow_fallback is false)" for notice in notices))
    return params, notices


def _attention(machine: Machine) -> Iterator[Change]:
    if machine.flash_optimum:
        taken = "BetterTransformer is gone from the libraries, sdp_attention is what it ran"
        yield "flash_optimum", {"flash_optimum": False, "sdp_attention": True}, taken


def _kernels(machine: Machine) -> Iterator[Change]:
    for taken in dict.fromkeys(KERNELS.values()):
        requested = [option for option, instead in KERNELS.items() if instead == taken and getattr(machine, option)]
        if requested:
            yield ", ".join(requested), dict.fromkeys(requested, False), f"not built yet, {taken}"


def _offload(machine: Machine) -> Iterator[Change]:
    if isinstance(machine.activation_offloading, str):
        yield (
            "activation_offloading",
            {"activation_offloading": True},
            "activations are kept in the machine's memory, whatever else it names",
        )
    if machine.gradient_checkpointing == "selective" and machine.torch_compile:
        taken = "all is computed again in compiled layers, which let no result be kept"
        yield "gradient_checkpointing", {"gradient_checkpointing": True}, taken


def _reentrant(machine: Machine) -> Iterator[Change]:
    wanted = {key: value for key, value in machine.gradient_checkpointing_kwargs.items() if (key, value) != ("use_reentrant", False)}
    if wanted and machine.gradient_checkpointing:
        yield "gradient_checkpointing_kwargs", {"gradient_checkpointing_kwargs": {}}, "use_reentrant is false, with the same gradients"


def _ddp(machine: Machine) -> Iterator[Change]:
    if machine.ddp and (machine.fsdp or machine.deepspeed):
        yield "ddp", {"ddp": None}, f"{'fsdp' if machine.fsdp else 'deepspeed'} takes its place"


def _fsdp(machine: Machine, params: Params) -> Iterator[Change]:
    if not machine.fsdp:
        return
    given = {key.removeprefix("fsdp_"): value for key, value in machine.fsdp_config.items()}
    if given.get("activation_checkpointing") and not machine.gradient_checkpointing:
        yield "fsdp_config", {"gradient_checkpointing": True}, "activation_checkpointing is gradient_checkpointing here"
    if str(given.get("sharding_strategy")).upper() in NO_SHARD:
        yield "fsdp_config", {"fsdp": None}, "NO_SHARD shards nothing, which is plain data parallel"
        return
    fsdp_of(machine)  # a setting that is none is told before anything is put in its place
    what = unsupported(params, "fsdp")
    if what is not None:
        yield "fsdp", {"fsdp": None}, f"cannot shard {what} over processes; each process holds all of it"
    elif str(given.get("version")) == "1":
        config = {key: value for key, value in machine.fsdp_config.items() if key.removeprefix("fsdp_") != "version"}
        yield "fsdp_config", {"fsdp_config": config}, "FSDP 2 is taken: PyTorch has given up FSDP 1"


def _deepspeed(machine: Machine, params: Params) -> Iterator[Change]:
    what = unsupported(params, "deepspeed")
    if machine.deepspeed and what is not None:
        yield "deepspeed", {"deepspeed": None}, f"cannot shard {what}; each process holds all of it"
