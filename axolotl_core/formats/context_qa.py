"""`context_qa`, `context_qa.load_404`, `context_qa.load_v2`: a question about a text.

`load_404` answers that the text does not say it; `load_v2` has headers instead of roles, and trains the word `Answer:`.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"article": "Axolotls regrow limbs.", "question": "What do they regrow?", "answer": "Limbs."}
>>> print(load(Dataset(path="x"), None).read(row).marked)
SYSTEM: Use the following contextual information to concisely answer the question.
<BLANKLINE>
USER: Axolotls regrow limbs.
===
What do they regrow?
ASSISTANT:⟦Limbs.◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import CHAT, instructed, no_style

COLUMNS = ("article", "question", "answer")
SYSTEM = "Use the following contextual information to concisely answer the question.\n"
NOT_THERE = (
    "The context provided does not contain any information about your inquiry. "
    "Therefore, I'm unable to answer your question based on the given context."
)


def load(data: Dataset, style: str | None) -> Format:
    """Fields `article`, `question` and `answer`."""
    no_style("context_qa", style)

    def read(row: Row) -> Example:
        return CHAT.wrap(SYSTEM, f"{text(row, 'article')}\n===\n{text(row, 'question')}", "", text_or_empty(row, "answer"))

    return Format("context_qa", COLUMNS, read)


def load_404(data: Dataset, style: str | None) -> Format:
    """Fields `article` and `unanswerable_question`; the answer is always the same."""
    no_style("context_qa.load_404", style)

    def read(row: Row) -> Example:
        return CHAT.wrap(SYSTEM, f"{text(row, 'article')}\n===\n{text(row, 'unanswerable_question')}", "", NOT_THERE)

    return Format("context_qa.load_404", ("article", "unanswerable_question"), read)


def load_v2(data: Dataset, style: str | None) -> Format:
    """Fields `context`, `question` and `answer`."""
    no_style("context_qa.load_v2", style)

    def read(row: Row) -> Example:
        reply = text_or_empty(row, "answer")
        prompt = f"Context: {text(row, 'context')}\nQuestion: {text(row, 'question')}\n"
        return instructed(prompt, f"Answer: {reply}" if reply else "")

    return Format("context_qa.load_v2", ("context", "question", "answer"), read)
