"""Pairs of options that cannot be together. Each rule yields (path of the option to mend, sentence)."""

from collections.abc import Iterator
from pathlib import PurePath

from axolotl_core import lookup
from axolotl_core.errors import ParamsError
from axolotl_core.params.document import Where
from axolotl_core.params.sharding import fsdp_of
from axolotl_core.params.whole import Params

SCHEDULE_OPTIONS = {
    "lr_quadratic_warmup": "cosine",
    "lr_div_factor": "one_cycle",
    "log_sweep_min_lr": "log_sweep",
    "log_sweep_max_lr": "log_sweep",
}
ATTENTION_FLAGS = ("sdp_attention", "eager_attention", "flash_attention", "xformers_attention", "flash_optimum")


def methods(params: Params) -> Iterator[tuple[Where, str]]:
    """What adapter, quantisation, precision and processes ask of each other."""
    adapter, model, training, machine = params.adapter, params.model, params.training, params.machine
    chooses_best = training.load_best_model_at_end or training.early_stopping_patience
    kinds = [option for option in ("load_in_8bit", "load_in_4bit", "gptq") if getattr(model, option)]
    formats = [option for option in ("bf16", "fp16") if getattr(training, option) in (True, "full")]
    formats += [option for option in ("bfloat16", "float16") if getattr(model, option)]
    if len(kinds) > 1:
        yield ("model", kinds[1]), f"{' and '.join(kinds)} are both true; a base is quantised in one way, keep one"
    if len(formats) > 1:
        where = ("training" if formats[1] == "fp16" else "model", formats[1])
        yield where, f"{' and '.join(formats)} are both set; weights have one number format, keep one"
    if kinds and adapter.adapter is None:
        yield ("model", kinds[0]), f"{kinds[0]} is for training an adapter; set adapter: lora, or remove it"
    if adapter.adapter == "qlora" and not model.load_in_4bit:
        yield ("adapter", "adapter"), "adapter is 'qlora', which is LoRA on a base of 4 bit; set model.load_in_4bit: true"
    if adapter.relora_steps is not None:
        for option, value in (("fsdp", machine.fsdp), ("deepspeed", machine.deepspeed)):
            if value:
                yield (
                    ("machine", option),
                    f"{option} does not go with relora_steps, whose merges want whole weights; remove one",
                )
        if training.lr_scheduler == "one_cycle":
            yield (
                ("adapter", "relora_steps"),
                "relora_steps breaks the one cycle of lr_scheduler 'one_cycle'; use cosine",
            )
        if chooses_best:
            yield (
                ("adapter", "relora_steps"),
                "relora_steps merges over the base of earlier steps; remove load_best_model_at_end and early stopping",
            )
        if adapter.peft_use_dora or model.gptq:
            yield ("adapter", "relora_steps"), "relora_steps merges plain updates into whole weights; remove peft_use_dora and gptq"
        if adapter.relora_prune_ratio < 1 and "8bit" in training.optimizer:
            yield ("adapter", "relora_prune_ratio"), "relora_prune_ratio below 1 cannot prune the state of an 8-bit optimizer; set it to 1"
    if machine.fsdp and machine.deepspeed:
        yield ("machine", "fsdp"), "fsdp and deepspeed are both set, and each shares out the same weights; keep one"
    if machine.ddp and (machine.fsdp or machine.deepspeed):
        yield ("machine", "ddp"), "ddp is true beside fsdp or deepspeed, which take its place; remove it"
    if machine.fsdp and (kinds or training.optimizer.endswith(("8bit", "32bit")) or training.optimizer in ("adafactor",)):
        what = kinds[0] if kinds else f"optimizer {training.optimizer}"
        yield (
            ("machine", "fsdp"),
            f"fsdp cannot cut {what} over processes; use several processes without fsdp",
        )
    if machine.deepspeed and (kinds or training.optimizer not in ("adamw_torch", "adamw_torch_fused")):
        what = kinds[0] if kinds else f"optimizer {training.optimizer}"
        yield (
            ("machine", "deepspeed"),
            f"deepspeed does not go with {what}; use adamw_torch and a whole base, or remove deepspeed",
        )
    if chooses_best and not params.packing.val_set_size:
        option = "early_stopping_patience" if training.early_stopping_patience else "load_best_model_at_end"
        yield ("training", option), f"{option} wants held-out rows; set packing.val_set_size"
    if chooses_best and training.evaluation_strategy == "no":
        yield ("training", "evaluation_strategy"), "evaluation_strategy 'no' leaves nothing to choose the best of; set eval_steps"
    if training.group_by_length and params.packing.sample_packing:
        yield ("training", "group_by_length"), "group_by_length is for samples that are not packed; packed rows are all full, remove it"
    try:
        fsdp = fsdp_of(machine)
        if fsdp and fsdp.version == 1 and adapter.adapter is not None:
            yield ("machine", "fsdp_config"), "FSDP 1 is for training all weights; remove fsdp_config.version, FSDP 2 takes adapters too"
    except ParamsError as error:
        yield ("machine", "fsdp_config" if "fsdp_config" in str(error) else "fsdp"), str(error).partition(": ")[2]


def broken(params: Params) -> Iterator[tuple[Where, str]]:
    """Every rule that the params break."""
    training, packing, machine, adapter = params.training, params.packing, params.machine, params.adapter
    tracking = params.tracking
    yield from methods(params)
    if training.batch_size is not None and training.gradient_accumulation_steps is not None:
        yield (
            ("training", "gradient_accumulation_steps"),
            "gradient_accumulation_steps and batch_size are both set, and one follows from the other; remove one",
        )
    if training.warmup_steps is not None and training.warmup_ratio is not None:
        yield ("training", "warmup_ratio"), "warmup_ratio and warmup_steps are both set; remove one"
    if training.warmup_steps and training.max_steps and training.warmup_steps >= training.max_steps:
        yield (
            ("training", "warmup_steps"),
            f"warmup_steps is {training.warmup_steps} but the run has {training.max_steps} steps (max_steps); lower it",
        )
    if training.lr_scheduler in ("constant", "log_sweep") and (training.warmup_steps or training.warmup_ratio):
        option = "warmup_steps" if training.warmup_steps else "warmup_ratio"
        yield (
            ("training", option),
            f"{option} does nothing with lr_scheduler '{training.lr_scheduler}'; use constant_with_warmup, or remove it",
        )
    if training.lr_scheduler == "log_sweep" and not (training.log_sweep_min_lr and training.log_sweep_max_lr):
        yield (
            ("training", "lr_scheduler"),
            "lr_scheduler is 'log_sweep', which wants log_sweep_min_lr and log_sweep_max_lr; set them",
        )
    for option, scheduler in SCHEDULE_OPTIONS.items():
        if getattr(training, option) and training.lr_scheduler != scheduler:
            yield ("training", option), f"{option} does nothing with lr_scheduler '{training.lr_scheduler}'; it is for {scheduler}"
    for key, value in training.lr_scheduler_kwargs.items():
        if isinstance(value, str) or (isinstance(value, list) and len(value) == 1):
            yield (
                ("training", "lr_scheduler_kwargs", key),
                f"lr_scheduler_kwargs: {key} is {value!r}, wanted a number, without quotes or brackets",
            )
    if training.evaluation_strategy == "steps" and training.eval_steps is None:
        yield ("training", "evaluation_strategy"), "evaluation_strategy is 'steps' but eval_steps is unset; set it"
    if training.eval_steps is not None and training.evaluation_strategy not in (None, "steps"):
        yield ("training", "eval_steps"), f"eval_steps does nothing with evaluation_strategy '{training.evaluation_strategy}'"
    if tracking.save_strategy == "steps" and tracking.save_steps is None:
        yield ("tracking", "save_strategy"), "save_strategy is 'steps' but save_steps is unset; set it"
    if tracking.save_steps is not None and tracking.save_strategy not in (None, "steps"):
        yield ("tracking", "save_steps"), f"save_steps does nothing with save_strategy '{tracking.save_strategy}'"
    if (packing.dataset_shard_num is None) != (packing.dataset_shard_idx is None):
        yield ("packing", "dataset_shard_num"), "dataset_shard_num and dataset_shard_idx go together; set both or none"
    elif packing.dataset_shard_num is not None and packing.dataset_shard_idx >= packing.dataset_shard_num:  # type: ignore[operator]
        yield (
            ("packing", "dataset_shard_idx"),
            f"dataset_shard_idx is {packing.dataset_shard_idx}, wanted 0 to {packing.dataset_shard_num - 1}",
        )
    if isinstance(packing.val_set_size, float) and packing.val_set_size >= 1 and not packing.val_set_size.is_integer():
        yield ("packing", "val_set_size"), f"val_set_size is {packing.val_set_size}, wanted a share below 1 or a whole number"
    chosen = [flag for flag in ATTENTION_FLAGS if getattr(machine, flag)]
    if len(chosen) > 1:
        yield ("machine", chosen[1]), f"{' and '.join(chosen)} are all true; a model has one kind of attention, keep one"
    if adapter.adapter is None:
        for option, value in adapter.identity().items():
            if option != "adapter" and value:
                yield ("adapter", option), f"{option} does nothing without an adapter; set adapter: lora or remove it"
    if adapter.lora_model_dir and PurePath(adapter.lora_model_dir).parts[:2] == ("artifacts", "adapter"):
        yield (
            ("adapter", "lora_model_dir"),
            "lora_model_dir is artifacts/adapter, which train itself replaces, so every run would begin another; copy the folder and "
            "name the copy",
        )
    for name, data in params.datasets.items():
        for key, value in data.chat_template_kwargs.items():
            if isinstance(value, str) and value.lower() in ("true", "false"):
                yield (
                    ("datasets", name, "chat_template_kwargs", key),
                    f"chat_template_kwargs: {key} is the text '{value}', which a template takes for true; write {value.lower()} without "
                    "quotes",
                )
        base = data.type.partition(":")[0].partition(".")[0] if isinstance(data.type, str) else "user_defined"
        base = "sharegpt" if base == "sharegpt_simple" else base
        for option in data.identity():
            types = OPTIONS_OF_TYPES.get(option, (base,))
            if base not in types and base in lookup.names(FORMATS):  # a format of the user's own may read what it likes
                yield ("datasets", name, option), f"{option} does nothing with type '{base}'; it is for {', '.join(types)}"
        if data.streaming and data.max_rows is None and data.max_bytes is None:
            yield (
                ("datasets", name, "streaming"),
                "streaming is true, but neither max_rows nor max_bytes says where to stop, and an artifact is finite; set one",
            )


FORMATS = "axolotl_core.formats"
CONVERSATIONS = ("sharegpt", "llama2_chat")
CHAT = ("chat_template",)
OPTIONS_OF_TYPES = {
    "conversation": ("sharegpt", "sharegpt_jokes"),
    "field_human": CONVERSATIONS,
    "field_model": CONVERSATIONS,
    "field": ("completion",),
    "roles_to_train": (*CONVERSATIONS, *CHAT),
    "train_role_prefix": (*CONVERSATIONS, "sharegpt_jokes"),
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "chat_template_date", "train_on_eot", "roles"), CHAT),
    **dict.fromkeys(("field_messages", "message_field_role", "message_field_content", "message_field_training"), CHAT),
}
"""Options that only some formats read."""
