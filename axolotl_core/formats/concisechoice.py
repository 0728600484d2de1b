"""`concisechoice`: a multiple choice with a short answer. It is written one way only, whatever the style.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"question": "1 + 1?", "choices": ["2", "3"], "solution": "2"}
>>> print(load(Dataset(path="x"), None).read(row).marked)
Choose the answer that best answers the question. Be concise in your response.
<BLANKLINE>
USER: 1 + 1?
- "2"
- "3"
ASSISTANT:⟦2◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.choices import choices, solution
from axolotl_core.prompts.example import Example, Format, Row, text
from axolotl_core.prompts.wrap import CHAT, instructed, style_of

COLUMNS = ("question", "choices")
SYSTEM = "Choose the answer that best answers the question. Be concise in your response.\n\n"


def load(data: Dataset, style: str | None) -> Format:
    """Fields `question`, `choices` (a list), `solution` or `explanation`."""
    style_of(style)

    def read(row: Row) -> Example:
        given = choices(row)
        turn = CHAT.with_input if given else CHAT.without_input
        return instructed(SYSTEM + turn.format(instruction=text(row, "question"), input=given), solution(row))

    return Format("concisechoice", COLUMNS, read)
