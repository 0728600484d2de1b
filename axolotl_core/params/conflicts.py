"""Every conflict of options: those of each section, and those between sections.

The machine section is in none of them: params/fallbacks.py finds what fits in the place of what does not.
"""

from collections.abc import Iterator

from axolotl_core.params import adapter, datasets, model, packing, tracking, training
from axolotl_core.params.conflict import Conflict, found
from axolotl_core.params.document import Where
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.params import Params
from axolotl_core.params.training import requires_validation

OF_SECTIONS = {
    "model": model.CONFLICTS,
    "adapter": adapter.CONFLICTS,
    "training": training.CONFLICTS,
    "packing": packing.CONFLICTS,
    "tracking": tracking.CONFLICTS,
}


def conflicts(params: Params) -> Iterator[tuple[Where, str]]:
    """(path of the option to change, sentence) of each conflict that the params have."""
    yield from found(BETWEEN_SECTIONS, params)
    for name, table in OF_SECTIONS.items():
        yield from found(table, getattr(params, name), (name,))
    for name, data in params.datasets.items():
        yield from found(datasets.CONFLICTS, data, ("datasets", name))


def _dtypes(params: Params) -> list[str]:
    """Options that say which 16-bit dtype is trained in, by their places."""
    found = [f"training.{option}" for option in ("bf16", "fp16") if getattr(params.training, option) in (True, "full")]
    return found + [f"model.{option}" for option in ("bfloat16", "float16") if getattr(params.model, option)]


def _chosen_by_validation(params: Params) -> dict[str, None]:
    """The option that chooses weights by validation rows, where nothing is held out."""
    option = requires_validation(params.training)
    held_out = params.packing.val_set_size or any(data.held_out for data in params.datasets.values())
    return {option: None} if option and not held_out else {}


def _names(places: list[str]) -> str:
    return " and ".join(place.partition(".")[2] for place in places)


BETWEEN_SECTIONS = (
    Conflict(
        "{option}",
        lambda p: {_dtypes(p)[1]: _names(_dtypes(p))} if len(_dtypes(p)) > 1 else {},
        "{value} are both set; weights have one dtype, keep one",
    ),
    Conflict(
        "model.{option}",
        lambda p: {model.quantised_by(p.model)[0]: None} if p.adapter.adapter is None and model.quantised_by(p.model) else {},
        "{option} is for training an adapter; set adapter: lora, or remove it",
    ),
    Conflict(
        "adapter.adapter",
        lambda p: p.adapter.adapter == "qlora" and not p.model.load_in_4bit,
        "adapter is 'qlora', which is LoRA on a base of 4 bit; set model.load_in_4bit: true",
    ),
    Conflict(
        "adapter.relora_steps",
        lambda p: p.adapter.relora_steps is not None and p.training.lr_scheduler == "one_cycle",
        "relora_steps breaks the one cycle of lr_scheduler 'one_cycle'; use cosine",
    ),
    Conflict(
        "adapter.relora_steps",
        lambda p: p.adapter.relora_steps is not None and requires_validation(p.training) is not None,
        "relora_steps merges over the base of earlier steps; remove load_best_model_at_end and early stopping",
    ),
    Conflict(
        "adapter.relora_steps",
        lambda p: p.adapter.relora_steps is not None and (p.adapter.peft_use_dora or p.model.gptq),
        "relora_steps merges plain updates into full weights; remove peft_use_dora and gptq",
    ),
    Conflict(
        "adapter.relora_prune_ratio",
        lambda p: p.adapter.relora_steps is not None and p.adapter.relora_prune_ratio < 1 and OPTIMIZERS[p.training.optimizer].eight_bit,
        "relora_prune_ratio below 1 cannot prune the state of an 8-bit optimizer; set it to 1",
    ),
    Conflict("training.{option}", _chosen_by_validation, "{option} requires validation rows; set packing.val_set_size"),
    Conflict(
        "training.group_by_length",
        lambda p: p.training.group_by_length and p.packing.sample_packing,
        "group_by_length is for samples that are not packed; packed rows are all full, remove it",
    ),
    Conflict(
        "training.unfrozen_parameters",
        lambda p: p.training.unfrozen_parameters and p.adapter.adapter is not None,
        "unfrozen_parameters is for training without an adapter; remove one of them",
    ),
    Conflict(
        "datasets",
        lambda p: all(data.held_out for data in p.datasets.values()),
        "every dataset is held out, so there is nothing to train on; remove held_out from one",
    ),
)
