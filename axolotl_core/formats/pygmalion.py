"""`pygmalion`: role play of `human` and `bot`, the first message may be `system`, the persona.

>>> from axolotl_core.params.datasets import Dataset
>>> said = [("system", "An axolotl."), ("human", "Hi"), ("bot", "*waves*")]
>>> row = {"conversations": [{"role": role, "value": value} for role, value in said]}
>>> print(load(Dataset(path="x"), None).read(row).marked)
<|system|>Persona: An axolotl.<|user|> Hi<|model|>⟦ *waves*◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, Segment, answer, text_or_empty
from axolotl_core.prompts.messages import messages_of, role_of
from axolotl_core.prompts.wrap import no_style

COLUMNS = ("conversations",)
ROLES = {"system": "system", "human": "user", "bot": "assistant"}
START = "\n<START>"


def load(data: Dataset, style: str | None) -> Format:
    """Field `conversations`: a list of {"role", "value"}; texts lose the blanks around them, a persona its `<START>`."""
    no_style("pygmalion", style)

    def read(row: Row) -> Example:
        segments: list[Segment] = []
        for message in messages_of(row, "conversations", '{"role", "value"}', 1):
            role, text = role_of(message, "role", ROLES), text_or_empty(message, "value")
            match role:
                case "system":
                    segments.append(Segment(f"<|system|>Persona: {text.removesuffix(START).strip()}", role=role))
                case "user":
                    segments.append(Segment(f"<|user|> {text.strip()}", role=role))
                case _:
                    segments.append(Segment("<|model|>", role=role))
                    segments += [answer(f" {text.strip()}", glue=True)] if text.strip() else []
        return Example(tuple(segments))

    return Format("pygmalion", COLUMNS, read)
