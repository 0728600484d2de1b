"""`packing`: rows of the training batches, and what is held out. An edit re-runs at most pack onward."""

from typing import Annotated, Literal

from pydantic import Field

from axolotl_core.params.conflict import Conflict
from axolotl_core.params.section import Section


class Packing(Section):
    """Rows of the training batches, and what is held out."""

    sequence_len: Annotated[int, Field(ge=2)] = 2048
    """Tokens a row holds at most."""
    sample_packing: bool = False
    """Lay several samples into a row; they never see each other."""
    eval_sample_packing: bool | None = None
    """The same for the validation rows; unset: as sample_packing."""
    pad_to_sequence_len: bool = False
    """Pad every row to sequence_len, for kernels that want constant shapes; else to the longest of its batch."""
    excess_length: Literal["auto", "drop", "truncate", "split", "raise"] = "auto"
    """Samples over sequence_len: dropped, cut, split into several, or an error; auto splits `completion` and drops the rest."""
    dataset_exact_deduplication: bool = False
    """Keep the first of samples with the same tokens and labels, over all datasets."""
    val_set_size: Annotated[float | int, Field(ge=0)] = 0
    """Samples held out for evaluation: a share below 1, or a count."""
    shuffle_seed: Annotated[int, Field(ge=0)] = 42
    """Seed of the shuffle that comes before the split and the packing."""
    shuffle_merged_datasets: bool = True
    """Shuffle the samples of all datasets before the split and the packing; false: val_set_size takes the first of them. The rows
    of an epoch are shuffled in any case."""
    dataset_shard_num: Annotated[int, Field(ge=1)] | None = None
    """Cut the samples into so many shards and keep one (dataset_shard_idx)."""
    dataset_shard_idx: Annotated[int, Field(ge=0)] | None = None
    """Which shard to keep, from 0; sample i belongs to shard i modulo dataset_shard_num."""


CONFLICTS = (
    Conflict(
        "dataset_shard_num",
        lambda p: (p.dataset_shard_num is None) != (p.dataset_shard_idx is None),
        "dataset_shard_num and dataset_shard_idx belong together; set both or neither",
    ),
    Conflict(
        "dataset_shard_idx",
        lambda p: None not in (p.dataset_shard_num, p.dataset_shard_idx) and p.dataset_shard_idx >= p.dataset_shard_num,
        "dataset_shard_idx is {dataset_shard_idx}, wanted less than dataset_shard_num, which is {dataset_shard_num}",
    ),
    Conflict(
        "val_set_size",
        lambda p: isinstance(p.val_set_size, float) and p.val_set_size >= 1 and not p.val_set_size.is_integer(),
        "val_set_size is {val_set_size}, wanted a share below 1 or a whole number",
    ),
)
