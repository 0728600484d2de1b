"""Rows of random tokens in memory, for tests of what trains on them."""

import numpy as np
import torch

from axolotl_core.batches.rows import RowSource
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.models.forward import ForwardSpec
from axolotl_core.models.precision import Precision
from axolotl_core.packing.plan import fit, lay_out

CPU = torch.device("cpu")
FP32 = Precision("fp32", torch.float32, torch.float32)
SPLIT, TOGETHER = ForwardSpec(split=True), ForwardSpec()


class Memory:
    """Samples of random tokens in memory, prompts of a third untrained."""

    def __init__(self, lengths: list[int]) -> None:
        draw = np.random.default_rng(3)
        self.ids = [draw.integers(3, 500, n).astype(np.int32) for n in lengths]

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        labels = self.ids[i].copy()
        labels[: len(labels) // 3] = IGNORE_INDEX
        return self.ids[i], labels


def source(lengths: list[int], packed: bool = True, sequence_len: int = 32) -> RowSource:
    pieces, _ = fit(0, np.array(lengths), sequence_len, "drop")
    return RowSource(lay_out(pieces, sequence_len, packed), [Memory(lengths)], 0, sequence_len, False)  # type: ignore[list-item]


LENGTHS = [9, 14, 30, 7, 21, 5, 11, 16, 8, 13]
