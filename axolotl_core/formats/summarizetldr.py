"""`summarizetldr`: an article and its summary. It is written one way only, whatever the style.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"article": "Long.", "summary": "Short."}
>>> print(load(Dataset(path="x"), None).read(row).marked)
USER: Summarize the following article as a TL;DR.
Long.
ASSISTANT:⟦Short.◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import instructed, style_of

COLUMNS = ("article", "summary")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `article` and `summary`."""
    style_of(style)

    def read(row: Row) -> Example:
        prompt = f"USER: Summarize the following article as a TL;DR.\n{text(row, 'article')}\nASSISTANT:"
        return instructed(prompt, text_or_empty(row, "summary"))

    return Format("summarizetldr", COLUMNS, read)
