"""Tensors in files of which each process writes what it has, and which any number of processes reads, each what it needs.

torch's distributed checkpoint in safetensors: `shard-<process>-model-<file>-of-<files>.safetensors`, and their headers say where in a
tensor each piece begins (HuggingFaceStorageReader reads them anywhere). Tensors are flattened, for that is what all strategies have a
contiguous range of: FSDP shards rows, ZeRO numbers.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
    load,
    save,
)
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

FILE_BYTES = 1 << 29
"""About what one file takes, which is in memory twice while it is written."""


@dataclass(frozen=True)
class Part:
    """A range of a flattened tensor, as torch's planners ask for it. values: the numbers in it, 1-D; start: where they begin;
    total: numbers of the whole."""

    values: Tensor
    start: int
    total: int

    def size(self) -> torch.Size:
        return torch.Size([self.total])

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size([self.start]), self.values.shape)] if len(self.values) else []

    def __create_write_items__(self, key: str, _: object) -> list[WriteItem]:
        properties = TensorProperties(dtype=self.values.dtype)
        return [
            WriteItem(MetadataIndex(key, chunk.offsets), WriteItemType.SHARD, tensor_data=TensorWriteData(chunk, properties, self.size()))
            for chunk in self.__create_chunk_list__()
        ]


class _SavePlanner(DefaultSavePlanner):
    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].values  # type: ignore[no-any-return]


class _LoadPlanner(DefaultLoadPlanner):
    def set_up_planner(self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        """Without making tensors of what lies on the meta device, which knows no other objects than tensors."""
        self.state_dict = self.original_state_dict = state_dict
        self.metadata, self.is_coordinator = metadata, is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn].values  # type: ignore[no-any-return]


def write(folder: Path, parts: Mapping[str, Part], group: ProcessGroup | None) -> list[Path]:
    """The files that this process has written. parts: in all processes the same keys and totals; together they are each tensor.

    group: of the processes that write, None for one alone; its backend must be one of the CPU. Raises what writing raised.
    """
    ranks = group.size() if group else 1
    writer = HuggingFaceStorageWriter(str(folder), _files(parts, ranks), save_distributed=True)
    _expect_one_process()
    planner = _SavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        save(dict(parts), storage_writer=writer, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None
    return sorted(folder.glob(f"shard-{(group.rank() if group else 0) + 1:05d}-*"))


def _expect_one_process() -> None:
    """torch warns of what is asked for here: a process that writes alone, and one that reads what it needs."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def _files(parts: Mapping[str, Part], ranks: int) -> dict[str, int]:
    """Number of the file that each tensor goes to, from 1."""
    bytes_before, found = 0, {}
    for key, part in parts.items():
        found[key] = bytes_before // FILE_BYTES + 1
        bytes_before += math.ceil(part.total / ranks) * part.values.element_size()
    return found


class _Reader(HuggingFaceStorageReader):
    @cached_property
    def _metadata(self) -> Metadata:
        return super().read_metadata()

    def read_metadata(self) -> Metadata:
        """Once: the headers of all files are read for it."""
        return self._metadata


class ShardedFiles:
    """What `write` has written."""

    def __init__(self, folder: Path) -> None:
        _expect_one_process()
        self.reader = _Reader(str(folder))
        self.tensors: Mapping[str, Any] = self.reader.read_metadata().state_dict_metadata

    def below(self, prefix: str) -> Iterator[str]:
        """Rest of the keys that begin so."""
        return (key.removeprefix(prefix) for key in self.tensors if key.startswith(prefix))

    def read(self, key: str, start: int, length: int) -> Tensor:
        """Numbers of a flattened tensor, 1-D, on the CPU, in the dtype that they were written in."""
        found = self.tensors[key]
        values = torch.empty(length, dtype=found.properties.dtype)
        wanted = {key: Part(values, start, found.size[0])}
        load(wanted, storage_reader=self.reader, planner=_LoadPlanner(flatten_state_dict=False), no_dist=True)
        return values
