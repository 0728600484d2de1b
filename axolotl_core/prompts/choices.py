"""Rows of a multiple choice: the fields that explainchoice and concisechoice share."""

from axolotl_core.errors import DataError
from axolotl_core.prompts.example import Row, kind, listed, text_or_empty


def choices(row: Row) -> str:
    """The field `choices`, a line each: `- "red"`. Raises DataError when it is no list."""
    value = listed(row.get("choices"))
    if value is None:
        return ""
    if not isinstance(value, list):
        raise DataError(f"field 'choices' is {kind(value)}, wanted a list")
    return "\n".join(f'- "{choice}"' for choice in value)


def solution(row: Row) -> str:
    """`solution`, or `explanation` where that is missing, null or empty."""
    if not {"solution", "explanation"} & row.keys():
        raise DataError(f"a multiple choice wants the field 'solution' or 'explanation', the row has {', '.join(row)}")
    return text_or_empty(row, "solution") or text_or_empty(row, "explanation")
