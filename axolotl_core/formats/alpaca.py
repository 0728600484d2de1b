"""`alpaca`, `alpaca:instruct`, `alpaca:chat`, `alpaca:chatml`: an instruction, an input that may be empty, an answer.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"instruction": "Add.", "input": "1 1", "output": "2"}
>>> print(load(Dataset(path="x"), "chat").read(row).marked)  # doctest: +NORMALIZE_WHITESPACE
SYSTEM: Below is an instruction that describes a task, paired with an input that provides further context.
Write a response that appropriately completes the request.
USER: Add.
1 1
ASSISTANT:⟦2◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import WITH_INPUT, WITHOUT_INPUT, style_of

COLUMNS = ("instruction", "output")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `instruction`, `input` (may be missing) and `output`."""
    wrap = style_of(style).wrap

    def read(row: Row) -> Example:
        given = text_or_empty(row, "input")
        system = WITH_INPUT if given else WITHOUT_INPUT
        return wrap(system, text(row, "instruction"), given, text_or_empty(row, "output"))

    return Format("alpaca", COLUMNS, read)
