"""`alpaca`, `alpaca:instruct`, `alpaca:chat`, `alpaca:chatml`: an instruction, an input that may be empty, an answer.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"instruction": "Add.", "input": "1 1", "output": "2"}
>>> print(load(Dataset(path="x"), "instruct").read(row).marked)  # doctest: +NORMALIZE_WHITESPACE
Below is an instruction that describes a task, paired with an input that provides further context.
Write a response that appropriately completes the request.
<BLANKLINE>
### Instruction:
Add.
<BLANKLINE>
### Input:
1 1
<BLANKLINE>
### Response:
⟦2◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Format
from axolotl_core.prompts.wrap import WITH_INPUT, WITHOUT_INPUT, style_of

COLUMNS = ("instruction", "output")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `instruction`, `input` (may be missing) and `output`."""
    return Format("alpaca", COLUMNS, style_of(style).reader("instruction", "output", systems=(WITH_INPUT, WITHOUT_INPUT)))
