"""`completion`: plain text, all of it trained. `field` names another column than `text`.

>>> from axolotl_core.params.datasets import Dataset
>>> print(load(Dataset(path="x"), None).read({"text": "Once upon a time"}).marked)
⟦Once upon a time◼⟧
"""

from axolotl_core.errors import ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, Segment, text_or_empty

COLUMNS = ("text",)


def load(data: Dataset, style: str | None) -> Format:
    """Field `text`, or the one that `field` names. Samples over sequence_len are split, not dropped."""
    if style is not None:
        raise ParamsError(f"completion has no style, got 'completion:{style}'; remove ':{style}'")
    field = data.field or "text"

    def read(row: Row) -> Example:
        content = text_or_empty(row, field)
        return Example((Segment(content, train=True, end=True),) if content else ())

    return Format("completion", (field,), read, excess="split")
