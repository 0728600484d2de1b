"""`completion`: plain text, all of it trained. `field` names another column than `text`.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"text": "Once upon a time"}
>>> print(load(Dataset(path="x"), None).read(row).marked)
⟦Once upon a time◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, Segment, text_or_empty
from axolotl_core.prompts.wrap import no_style

COLUMNS = ("text",)


def load(data: Dataset, style: str | None) -> Format:
    """Field `text`, or the one that `field` names. Samples over sequence_len are split, not dropped."""
    no_style("completion", style)
    field = data.field or "text"

    def read(row: Row) -> Example:
        content = text_or_empty(row, field)
        return Example((Segment(content, train=True, end=1, role="text"),) if content else ())

    return Format("completion", (field,), read, excess="split", markup=True)
