"""Which split a file of a folder is of, by the hub's rules for names (huggingface.co/docs/hub/datasets-file-names-and-splits).

train.jsonl  data/dev-00000-of-00002.parquet  test/a.json  →  train, validation, test
data/sft-00000-of-00001.parquet                            →  sft
faq.jsonl                                                  →  none
"""

import re

KEYWORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
WORDS = re.compile(r"[-._ 0-9]+")
SHARD = re.compile(r"(\w+(?:[.\w]*\w)?)-\d{5}-of-\d{5}\..*")


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
