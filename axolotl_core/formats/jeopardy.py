"""`jeopardy`, `jeopardy:chat`, `jeopardy:chatml`: a question and its category; the answer begins with `what is`.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"question": "It is the largest planet.", "category": "SPACE", "answer": "Jupiter"}
>>> print(load(Dataset(path="x"), "chat").read(row).marked)  # doctest: +NORMALIZE_WHITESPACE
SYSTEM: Below is an instruction that describes a task, paired with an input that provides further context.
Write a response that appropriately completes the request.
USER: It is the largest planet.
SPACE
ASSISTANT:⟦what is Jupiter◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import WITH_INPUT, WITHOUT_INPUT, style_of

COLUMNS = ("question", "category", "answer")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `question`, `category` (may be empty) and `answer`."""
    wrap = style_of(style).wrap

    def read(row: Row) -> Example:
        category, reply = text_or_empty(row, "category"), text_or_empty(row, "answer")
        system = WITH_INPUT if category else WITHOUT_INPUT
        return wrap(system, text(row, "question"), category, f"what is {reply}" if reply else "")

    return Format("jeopardy", COLUMNS, read)
