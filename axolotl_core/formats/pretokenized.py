"""`pretokenized`, or no type at all: rows that are token ids already. Where attention_mask is 0 a token is left out.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 0], "labels": [-100, 6, -100]}
>>> print(load(Dataset(path="x"), None).read(row))
Ids(ids=[5, 6], labels=[-100, 6])
"""

from typing import Any

from axolotl_core.errors import DataError
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Format, Ids, Row, Vocabulary, kind_of_list, listed
from axolotl_core.prompts.wrap import no_style

COLUMNS = ("input_ids", "attention_mask", "labels")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `input_ids`, `attention_mask` and `labels`, lists of one length; a label is an id or -100."""
    no_style("pretokenized", style)
    name = "pretokenized" if "type" in data.model_fields_set else "pretokenized (the dataset has no `type`)"

    def read(row: Row) -> Ids:
        ids, mask, labels = (_numbers(row, column) for column in COLUMNS)
        if not len(ids) == len(mask) == len(labels):
            raise DataError(f"input_ids has {len(ids)} entries, attention_mask {len(mask)}, labels {len(labels)}; wanted the same number")
        kept = [i for i, seen in enumerate(mask) if seen]
        return Ids([ids[i] for i in kept], [labels[i] for i in kept])

    def fit(vocabulary: Vocabulary) -> Format:
        def checked(row: Row) -> Ids:
            found = read(row)
            for name, values, least in (("input_ids", found.ids, 0), ("labels", found.labels, IGNORE_INDEX)):
                wrong = [v for v in values if not (0 <= v < vocabulary.size or v == least)]
                if wrong:
                    raise DataError(f"field '{name}' has {wrong[0]}, the tokenizer's ids are 0 to {vocabulary.size - 1}")
            return found

        return Format(name, COLUMNS, checked)

    return Format(name, COLUMNS, read, fit=fit)


def _numbers(row: Row, column: str) -> list[int]:
    value: Any = listed(row[column])
    if not isinstance(value, list) or not all(type(entry) is int for entry in value):
        raise DataError(f"field '{column}' is {kind_of_list(value)}, wanted a list of ids")
    return value
