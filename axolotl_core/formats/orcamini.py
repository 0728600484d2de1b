"""`orcamini`: a system text, a question, an answer, with headers. An empty system text is left out.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"system_prompt": "Be brief.", "question": "1 + 1?", "response": "2"}
>>> print(load(Dataset(path="x"), None).read(row).marked)
### System:
Be brief.
<BLANKLINE>
### User:
1 + 1?
<BLANKLINE>
### Response:
⟦2◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import instructed, no_style

COLUMNS = ("system_prompt", "question", "response")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `system_prompt` (may be empty), `question` and `response`."""
    no_style("orcamini", style)

    def read(row: Row) -> Example:
        system = text_or_empty(row, "system_prompt")
        before = f"### System:\n{system}\n\n" if system else ""
        return instructed(f"{before}### User:\n{text(row, 'question')}\n\n### Response:\n", text_or_empty(row, "response"))

    return Format("orcamini", COLUMNS, read)
