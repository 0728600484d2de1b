"""`metharme`: a prompt that carries its own markup, and what the model generates. Three EOS close the answer.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"prompt": "<|user|>Hi<|model|>", "generation": "Hello!"}
>>> print(load(Dataset(path="x"), None).read(row).marked)
<|user|>Hi<|model|>⟦Hello!◼◼◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, Segment, answer, text, text_or_empty
from axolotl_core.prompts.wrap import no_style

COLUMNS = ("prompt", "generation")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `prompt` and `generation`."""
    no_style("metharme", style)

    def read(row: Row) -> Example:
        prompt, reply = Segment(text(row, "prompt")), text_or_empty(row, "generation")
        return Example((prompt, answer(reply, end=3)) if reply else (prompt,))

    return Format("metharme", COLUMNS, read, markup=True)
