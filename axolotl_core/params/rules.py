"""Pairs of options that cannot be together. Each rule yields (path of the option to mend, sentence).

The machine section is in none of them: params/fallbacks.py finds what fits in the place of what does not.
"""

import re
from collections.abc import Iterator
from pathlib import PurePath

from axolotl_core import lookup
from axolotl_core.params.document import Where
from axolotl_core.params.params import Params

SCHEDULE_OPTIONS = {
    "lr_quadratic_warmup": "cosine",
    "lr_div_factor": "one_cycle",
    "log_sweep_min_lr": "log_sweep",
    "log_sweep_max_lr": "log_sweep",
}


def methods(params: Params) -> Iterator[tuple[Where, str]]:
    """What adapter, quantisation and precision ask of each other."""
    adapter, model, training = params.adapter, params.model, params.training
    chooses_best = training.load_best_model_at_end or training.early_stopping_patience
    kinds = [option for option in ("load_in_8bit", "load_in_4bit", "gptq") if getattr(model, option)]
    formats = [option for option in ("bf16", "fp16") if getattr(training, option) in (True, "full")]
    formats += [option for option in ("bfloat16", "float16") if getattr(model, option)]
    if len(kinds) > 1:
        yield ("model", kinds[1]), f"{' and '.join(kinds)} are both true; a base is quantised in one way, keep one"
    if len(formats) > 1:
        where = ("training" if formats[1] == "fp16" else "model", formats[1])
        yield where, f"{' and '.join(formats)} are both set; weights have one dtype, keep one"
    if kinds and adapter.adapter is None:
        yield ("model", kinds[0]), f"{kinds[0]} is for training an adapter; set adapter: lora, or remove it"
    if adapter.adapter == "qlora" and not model.load_in_4bit:
        yield ("adapter", "adapter"), "adapter is 'qlora', which is LoRA on a base of 4 bit; set model.load_in_4bit: true"
    if adapter.relora_steps is not None:
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
            yield ("adapter", "relora_steps"), "relora_steps merges plain updates into full weights; remove peft_use_dora and gptq"
        if adapter.relora_prune_ratio < 1 and "8bit" in training.optimizer:
            yield ("adapter", "relora_prune_ratio"), "relora_prune_ratio below 1 cannot prune the state of an 8-bit optimizer; set it to 1"
    if chooses_best and not params.packing.val_set_size and not any(data.held_out for data in params.datasets.values()):
        option = "early_stopping_patience" if training.early_stopping_patience else "load_best_model_at_end"
        yield ("training", option), f"{option} requires validation rows; set packing.val_set_size"
    if chooses_best and training.evaluation_strategy == "no":
        yield ("training", "evaluation_strategy"), "evaluation_strategy 'no' leaves nothing to choose the best of; set eval_steps"
    if training.group_by_length and params.packing.sample_packing:
        yield ("training", "group_by_length"), "group_by_length is for samples that are not packed; packed rows are all full, remove it"
    if training.unfrozen_parameters and adapter.adapter is not None:
        yield ("training", "unfrozen_parameters"), "unfrozen_parameters is for training without an adapter; remove one of them"


def broken(params: Params) -> Iterator[tuple[Where, str]]:
    """Every rule that the params break."""
    training, packing, adapter = params.training, params.packing, params.adapter
    yield from methods(params)
    if training.batch_size is not None and training.gradient_accumulation_steps is not None:
        yield (
            ("training", "gradient_accumulation_steps"),
            "gradient_accumulation_steps and batch_size are both set, and one follows from the other; remove one",
        )
    if training.warmup_steps is not None and training.warmup_ratio is not None:
        yield ("training", "warmup_ratio"), "warmup_ratio and warmup_steps are both set; remove one"
    if training.lr_scheduler in ("constant", "log_sweep") and (training.warmup_steps or training.warmup_ratio):
        option = "warmup_steps" if training.warmup_steps else "warmup_ratio"
        yield (
            ("training", option),
            f"{option} does nothing with lr_scheduler '{training.lr_scheduler}'; use constant_with_warmup, or remove it",
        )
    if training.lr_scheduler == "log_sweep" and not (training.log_sweep_min_lr and training.log_sweep_max_lr):
        yield (
            ("training", "lr_scheduler"),
            "lr_scheduler is 'log_sweep', which requires log_sweep_min_lr and log_sweep_max_lr; set them",
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
    for section, strategy, steps, an_epoch in (
        ("training", "evaluation_strategy", "eval_steps", "evals_per_epoch"),
        ("tracking", "save_strategy", "save_steps", "saves_per_epoch"),
    ):
        chosen, given = getattr(getattr(params, section), strategy), [steps, an_epoch]
        given = [option for option in given if getattr(getattr(params, section), option) is not None]
        if len(given) > 1:
            yield (section, an_epoch), f"{steps} and {an_epoch} are both set, and say the same; remove one"
        if chosen == "steps" and not given:
            yield (section, strategy), f"{strategy} is 'steps' but {steps} is unset; set it"
        if given and chosen not in (None, "steps"):
            yield (section, given[0]), f"{given[0]} does nothing with {strategy} '{chosen}'"
    if (packing.dataset_shard_num is None) != (packing.dataset_shard_idx is None):
        yield ("packing", "dataset_shard_num"), "dataset_shard_num and dataset_shard_idx go together; set both or none"
    elif packing.dataset_shard_num is not None and packing.dataset_shard_idx >= packing.dataset_shard_num:  # type: ignore[operator]
        yield (
            ("packing", "dataset_shard_idx"),
            f"dataset_shard_idx is {packing.dataset_shard_idx}, wanted 0 to {packing.dataset_shard_num - 1}",
        )
    if isinstance(packing.val_set_size, float) and packing.val_set_size >= 1 and not packing.val_set_size.is_integer():
        yield ("packing", "val_set_size"), f"val_set_size is {packing.val_set_size}, wanted a share below 1 or a whole number"
    if isinstance(adapter.lora_target_modules, str) and re.fullmatch(r"[\w.-]+", adapter.lora_target_modules):
        name = adapter.lora_target_modules
        yield (
            ("adapter", "lora_target_modules"),
            f"lora_target_modules: '{name}' is not a regular expression that matches whole names; write it in brackets, [{name}]",
        )
    elif isinstance(adapter.lora_target_modules, str) and adapter.lora_target_linear:
        yield ("adapter", "lora_target_linear"), "lora_target_linear is set beside a regular expression in lora_target_modules; remove one"
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
    if all(data.held_out for data in params.datasets.values()):
        yield ("datasets",), "every dataset is held out, so there is nothing to train on; remove held_out from one"
    for name, data in params.datasets.items():
        if data.chat_template_jinja is not None and data.chat_template not in (None, "jinja"):
            yield (
                ("datasets", name, "chat_template_jinja"),
                f"chat_template_jinja is set beside chat_template '{data.chat_template}'; remove one",
            )
        if data.chat_template == "jinja" and data.chat_template_jinja is None:
            yield (
                ("datasets", name, "chat_template"),
                "chat_template is 'jinja', which requires the template in chat_template_jinja; set it",
            )
        if data.train_on_eot is not None and data.train_on_eos is not None:
            yield ("datasets", name, "train_on_eos"), "train_on_eot and train_on_eos are both set, and mean the same; remove one"
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
    **dict.fromkeys(("chat_template", "chat_template_jinja", "chat_template_kwargs", "chat_template_date"), CHAT),
    **dict.fromkeys(("train_on_eot", "train_on_eos", "roles", "field_messages", "field_tools", "message_property_mappings"), CHAT),
    **dict.fromkeys(("message_field_role", "message_field_content", "message_field_training"), CHAT),
    **dict.fromkeys(("field_thinking", "template_thinking_key", "split_thinking", "drop_system_message"), CHAT),
}
"""Options that only some formats read."""
