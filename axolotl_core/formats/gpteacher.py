"""`gpteacher`, `gpteacher:chat`, `gpteacher:chatml`: as alpaca, the answer is called `response`.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"instruction": "Add.", "input": "1 1", "response": "2"}
>>> print(load(Dataset(path="x"), "chat").read(row).marked)  # doctest: +NORMALIZE_WHITESPACE
SYSTEM: Below is an instruction that describes a task, paired with an input that provides further context.
Write a response that appropriately completes the request.
USER: Add.
1 1
ASSISTANT:⟦2◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Format
from axolotl_core.prompts.wrap import WITH_INPUT, WITHOUT_INPUT, style_of

COLUMNS = ("instruction", "response")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `instruction`, `input` (may be missing) and `response`."""
    return Format("gpteacher", COLUMNS, style_of(style).reader("instruction", "response", systems=(WITH_INPUT, WITHOUT_INPUT)))
