"""Pairs of options that cannot be together. Each rule yields (path of the option to mend, sentence)."""

from collections.abc import Iterator

from axolotl_core import lookup
from axolotl_core.params.document import Where
from axolotl_core.params.whole import Params

ATTENTION_FLAGS = ("sdp_attention", "eager_attention", "flash_attention", "xformers_attention", "flash_optimum")


def broken(params: Params) -> Iterator[tuple[Where, str]]:
    """Every rule that the params break."""
    training, packing, machine, adapter = params.training, params.packing, params.machine, params.adapter
    tracking = params.tracking
    if training.batch_size is not None and training.gradient_accumulation_steps is not None:
        yield (
            ("training", "gradient_accumulation_steps"),
            "gradient_accumulation_steps and batch_size are both set, and one follows from the other; remove one",
        )
    if training.batch_size is not None and training.batch_size % machine.micro_batch_size:
        yield (
            ("training", "batch_size"),
            f"batch_size is {training.batch_size}, which micro_batch_size {machine.micro_batch_size} does not divide",
        )
    if training.warmup_steps is not None and training.warmup_ratio is not None:
        yield ("training", "warmup_ratio"), "warmup_ratio and warmup_steps are both set; remove one"
    if training.warmup_steps and training.max_steps and training.warmup_steps >= training.max_steps:
        yield (
            ("training", "warmup_steps"),
            f"warmup_steps is {training.warmup_steps} but the run has {training.max_steps} steps (max_steps); lower it",
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
            if option.startswith("lora_") and value:
                yield ("adapter", option), f"{option} does nothing without an adapter; set adapter: lora or remove it"
    for name, data in params.datasets.items():
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
    **dict.fromkeys(("chat_template", "chat_template_kwargs", "field_messages", "message_field_role", "message_field_content"), CHAT),
    **dict.fromkeys(("message_field_training", "roles", "train_on_eot"), CHAT),
}
"""Options that only some formats read."""
