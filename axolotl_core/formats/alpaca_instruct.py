"""`alpaca_instruct`, `alpaca_instruct.load_no_prompt`: as alpaca, with the system text or without it.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"instruction": "Add 1 and 1.", "output": "2"}
>>> print(load_no_prompt(Dataset(path="x"), None).read(row).marked)
### Instruction:
Add 1 and 1.
<BLANKLINE>
### Response:
⟦2◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Format
from axolotl_core.prompts.wrap import INSTRUCT, WITH_INPUT, WITHOUT_INPUT, no_style

COLUMNS = ("instruction", "output")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `instruction`, `input` (may be missing) and `output`."""
    no_style("alpaca_instruct", style)
    return Format("alpaca_instruct", COLUMNS, INSTRUCT.reader("instruction", "output", systems=(WITH_INPUT, WITHOUT_INPUT)))


def load_no_prompt(data: Dataset, style: str | None) -> Format:
    """The same without a system text."""
    no_style("alpaca_instruct.load_no_prompt", style)
    return Format("alpaca_instruct.load_no_prompt", COLUMNS, INSTRUCT.reader("instruction", "output"))
