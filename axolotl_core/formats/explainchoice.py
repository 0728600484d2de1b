"""`explainchoice`, `explainchoice:chat`, `explainchoice:chatml`: a multiple choice with its reasoning.

The answer is `solution`, or `explanation` where there is no solution.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"question": "1 + 1?", "choices": ["2", "3"], "solution": None, "explanation": "It is 2."}
>>> print(load(Dataset(path="x"), "chat").read(row).marked)
SYSTEM: Choose the answer that best answers the question. Explain your reasoning.
<BLANKLINE>
USER: 1 + 1?
- "2"
- "3"
ASSISTANT:⟦It is 2.◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.choices import choices, solution
from axolotl_core.prompts.example import Example, Format, Row, text
from axolotl_core.prompts.wrap import style_of

COLUMNS = ("question", "choices")
SYSTEM = "Choose the answer that best answers the question. Explain your reasoning.\n"


def load(data: Dataset, style: str | None) -> Format:
    """Fields `question`, `choices` (a list), `solution` or `explanation`."""
    wrap = style_of(style).wrap

    def read(row: Row) -> Example:
        return wrap(SYSTEM, text(row, "question"), choices(row), solution(row))

    return Format("explainchoice", COLUMNS, read)
