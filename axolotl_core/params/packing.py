"""`packing`: rows of the training batches, and what is held out. An edit re-runs pack onward."""

from typing import Annotated, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section


class Packing(Section):
    """Rows of the training batches, and what is held out."""

    sequence_len: Annotated[int, Field(ge=2)] = 2048
    """Tokens a row holds at most."""
    sample_packing: bool = False
    """Lay several samples into a row; they never see each other."""
    eval_sample_packing: bool | None = None
    """The same for the held-out rows; unset: as sample_packing."""
    pad_to_sequence_len: bool = False
    """Pad every row to sequence_len, for kernels that want constant shapes; else to the longest of its batch."""
    max_packed_sequence_len: Annotated[int | None, Built()] = None
    """The old way of packing; sample_packing replaces it."""
    excess_length: Literal["auto", "drop", "truncate", "split"] = "auto"
    """Samples over sequence_len: dropped, cut, or split into several; auto splits `completion` and drops the rest."""
    val_set_size: Annotated[float | int, Field(ge=0)] = 0
    """Samples held out for evaluation: a share below 1, or a count."""
    shuffle_seed: Annotated[int, Field(ge=0)] = 42
    """Seed of the shuffle that comes before the split and the packing."""
    dataset_shard_num: Annotated[int, Field(ge=1)] | None = None
    """Cut the samples into so many shards and keep one (dataset_shard_idx)."""
    dataset_shard_idx: Annotated[int, Field(ge=0)] | None = None
    """Which shard to keep, from 0; sample i belongs to shard i modulo dataset_shard_num."""
