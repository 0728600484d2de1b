"""A row's columns as the format knows them: `join` makes one text of a list, `rename` gives names.

{"source": ["One.", "Two."], "target": ["A", "B"]}   join {source: " "}, rename {source: article, target.0: summary}
{"article": "One. Two.", "target": ["A", "B"], "summary": "A"}
"""

from collections.abc import Mapping
from typing import Any

from axolotl_core.errors import DataError
from axolotl_core.prompts.example import Row, kind_of_list, listed


def shaped(row: Row, rename: Mapping[str, str], join: Mapping[str, str]) -> Row:
    """The row with lists joined and columns renamed; `target.0` and `meta.title` name what lies inside a column.

    Raises DataError: a column to join that is not a list of texts, two columns of one name.
    """
    clash = [new for new in set(rename.values()) if sum(rename[old] == new for old in rename if old in row) > 1]
    row = {column: _joined(column, value, join[column]) if column in join else value for column, value in row.items()}
    taken = [new for old, new in rename.items() if new in row and new not in rename and old in row]
    if taken or clash:
        raise DataError(f"rename would give a second column the name '{(taken or clash)[0]}'")
    inside = {new: found for old, new in rename.items() if old not in row and (found := _inside(row, old)) is not None}
    return {rename.get(column, column): value for column, value in row.items()} | inside


def _joined(column: str, value: Any, between: str) -> str:
    value = listed(value)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise DataError(f"field '{column}' is {kind_of_list(value)}, wanted a list of texts to join")
    return between.join(value)


def _inside(row: Row, path: str) -> Any:
    value: Any = row
    for step in path.split("."):
        value = listed(value)
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
