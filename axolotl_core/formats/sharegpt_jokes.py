"""`sharegpt_jokes`: a joke and why it is funny, as a conversation of two questions.

The fields may stand in the row or in an object `conversations`.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"title": "Why did the axolotl smile?", "text": "It cannot help it.", "explanation": "Its mouth is made so."}
>>> print(load(Dataset(path="x", conversation="xgen"), None).read(row).marked)  # doctest: +NORMALIZE_WHITESPACE
A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed,
and polite answers to the human's questions.
### Human: Tell me a joke.
### Assistant:⟦ Why did the axolotl smile? It cannot help it.
◼⟧### Human: Why is that joke funny?
### Assistant:⟦ Its mouth is made so.
◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.conversation import conversation_of
from axolotl_core.prompts.example import Example, Format, Row, text_or_empty
from axolotl_core.prompts.wrap import no_style

COLUMNS: tuple[str, ...] = ()
FIELDS = ("text", "explanation")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `title` (may be empty), `text` and `explanation`."""
    no_style("sharegpt_jokes", style)
    template = conversation_of(data.conversation)

    def read(row: Row) -> Example:
        inner = row.get("conversations")
        row = inner if isinstance(inner, dict) else row
        title, joke = text_or_empty(row, "title"), text_or_empty(row, "text")
        turns = [
            ("user", "Tell me a joke."),
            ("assistant", f"{title} {joke}" if title and joke else joke),
            ("user", "Why is that joke funny?"),
            ("assistant", text_or_empty(row, "explanation")),
        ]
        return template.write("", turns, train_prefix=data.train_role_prefix)

    return Format("sharegpt_jokes", COLUMNS, read)
