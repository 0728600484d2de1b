"""`oasst`, `oasst:chat`, `oasst:chatml`: `INSTRUCTION` and `RESPONSE` in capitals.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"INSTRUCTION": "Add 1 and 1.", "RESPONSE": "2"}
>>> print(load(Dataset(path="x"), "chatml").read(row).marked)  # doctest: +NORMALIZE_WHITESPACE
<|im_start|>system
Below is an instruction that describes a task. Write a response that appropriately completes the request.
<|im_end|>
<|im_start|>user
Add 1 and 1.<|im_end|>
<|im_start|>assistant
⟦2<|im_end|>⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Format
from axolotl_core.prompts.wrap import WITHOUT_INPUT, style_of

COLUMNS = ("INSTRUCTION", "RESPONSE")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `INSTRUCTION` and `RESPONSE`; there is no input."""
    return Format("oasst", COLUMNS, style_of(style).reader("INSTRUCTION", "RESPONSE", input="", systems=(WITHOUT_INPUT, WITHOUT_INPUT)))
