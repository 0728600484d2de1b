"""Which split a file of a folder is of, by the hub's rules for names (huggingface.co/docs/hub/datasets-file-names-and-splits).

train.jsonl  data/dev-00000-of-00002.parquet  test/a.json  →  train, validation, test
data/sft-00000-of-00001.parquet                            →  sft
faq.jsonl                                                  →  none

A slice may follow the name, as the datasets library writes it: `train[:5%]`, `test[100:200]`, `train[-10:]`.
"""

import re
from dataclasses import dataclass

from axolotl_core.errors import ParamsError

KEYWORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
WORDS = re.compile(r"[-._ 0-9]+")
SHARD = re.compile(r"(\w+(?:[.\w]*\w)?)-\d{5}-of-\d{5}\..*")


BOUND = r"\s*(-?\d+)?\s*(%)?\s*"
SLICED = re.compile(rf"(?P<name>[^\[\]+]+?)\s*\[{BOUND}:{BOUND}\]")


@dataclass(frozen=True)
class Slice:
    """Rows start..stop of a split; percent: as shares of it, rounded to the nearest row as the datasets library does."""

    start: tuple[int, bool] | None
    stop: tuple[int, bool] | None

    @property
    def counts_from_start(self) -> bool:
        """Whether the rows are known without their number."""
        return all(bound is None or (bound[0] >= 0 and not bound[1]) for bound in (self.start, self.stop))

    def rows(self, total: int) -> range:
        """Their numbers, from 0, of a split of `total` rows.

        >>> Slice(None, (5, True)).rows(50)
        range(0, 2)
        """
        start, stop = (_row(bound, total) for bound in (self.start, self.stop))
        return range(total)[start:stop]


def _row(bound: tuple[int, bool] | None, total: int) -> int | None:
    if bound is None:
        return None
    number, percent = bound
    return round(number * total / 100) if percent else number


def sliced(split: str | None) -> tuple[str | None, Slice | None]:
    """`train[:5%]` → ("train", its slice). Raises ParamsError for brackets that are none, and for a sum of splits."""
    if split is None or not set(split) & set("[]+"):
        return split, None
    match = SLICED.fullmatch(split.strip())
    if match is None or any(percent and number is None for number, percent in (match.group(2, 3), match.group(4, 5))):
        raise ParamsError(f"train_on_split is '{split}', wanted a name, or a name and a slice such as train[:5%] or test[100:200]")
    bounds = [None if number is None else (int(number), percent is not None) for number, percent in (match.group(2, 3), match.group(4, 5))]
    return match["name"], Slice(*bounds)


def split_of(path: str) -> str | None:
    """The split of a path relative to the folder; the file's own name counts before its folders'."""
    *folders, file = path.split("/")
    if shard := SHARD.fullmatch(file):
        return canonical(shard[1])
    for name in (file, *reversed(folders)):
        for word in WORDS.split(name):
            if word in KEYWORDS:
                return KEYWORDS[word]
    return None


def canonical(split: str) -> str:
    """`dev` and `val` are `validation`; a name of the user's own stays."""
    return KEYWORDS.get(split, split)
