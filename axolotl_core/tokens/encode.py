"""Rows → ids and labels, a block at a time.

    segments   ["### Instruction:…Response:\\n", "2" train end]
    ids        14   3   88 … 7 | 34   2         one encode_batch_fast over all segments of the block
    labels   -100 -100 -100 …  | 34   2         set together with the ids, so they cannot drift

Each segment is encoded by itself, but those glued together, which are encoded in one: there a token is trained when
its first character is. BOS goes in front of a row if the tokenizer adds one, EOS after a segment that says `end`.
Labels are not shifted. On the way it is seen whether the ids give the text back and whether each turn's end is trained.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from axolotl_core.errors import DataError
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.prompts import resolve
from axolotl_core.prompts.columns import shaped
from axolotl_core.prompts.example import ROLES, Example, Format, Ids, Row
from axolotl_core.prompts.template import BEGIN, END, MARK
from axolotl_core.sources.exact import loads
from axolotl_core.tokens.encoded import COLUMN, Encoded, pick
from axolotl_core.tokens.guard import ALIAS, GUARD, Guard
from axolotl_core.tokens.row_stats import EMPTY, RowStats, given_ids
from axolotl_core.tokens.segments import SegmentTokenizer, Tokenized
from axolotl_core.tokens.tokenizer import Tokenizer

NONE: dict[str, str] = {}
NONCHARACTERS = (GUARD, ALIAS, BEGIN, END, MARK)
"""They stand for places here, and no text may contain them."""
LIKE_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>")
MOST_BLANKS = 5
ROLE = {role: i for i, role in enumerate(ROLES)}


@dataclass(frozen=True)
class Segments:
    """All segments of a block, a column each; row: of the block; role: index in ROLES; eos: how many end it; begin: whether BOS comes
    in front; ends_turns: whether the format says that its answers end."""

    texts: list[str]
    row: np.ndarray
    role: np.ndarray
    glue: np.ndarray
    train: np.ndarray
    begin: np.ndarray
    eos: np.ndarray
    ends_turns: np.ndarray

    @classmethod
    def of(cls, examples: list[tuple[int, Example]]) -> "Segments":
        """examples: with the number of their row."""
        segments = [segment for _, example in examples for segment in example.segments]
        counts = [len(example.segments) for _, example in examples]

        def column(values: Iterable[Any], kind: type) -> np.ndarray:
            return np.fromiter(values, kind, len(segments))

        begin = column((segment.begin for segment in segments), bool)
        begin[(np.cumsum(counts) - counts)[[example.bos for _, example in examples]]] = True
        return cls(
            [segment.text for segment in segments],
            np.repeat(np.array([row for row, _ in examples], np.int64), counts),
            column((ROLE[segment.role] for segment in segments), np.int64),
            column((segment.glue for segment in segments), bool),
            column((segment.train for segment in segments), bool),
            begin,
            column((segment.end for segment in segments), np.int64),
            np.repeat([example.ends for _, example in examples], counts),
        )


class RowEncoder:
    """Encodes rows of one dataset. rename and join: see prompts/columns.py."""

    def __init__(
        self,
        format: Format,
        tokenizer: Tokenizer,
        *,
        train_on_inputs: bool = False,
        rename: Mapping[str, str] = NONE,
        join: Mapping[str, str] = NONE,
    ) -> None:
        self.format = format.fit(tokenizer.vocabulary) if format.fit else format
        self.tokenizer, self.train_on_inputs, self.rename, self.join = tokenizer, train_on_inputs, rename, join
        self.markup = format.markup  # what fit() gives need not know of it
        self.guard = Guard(tokenizer.control)
        self.tokenizer_of_segments = SegmentTokenizer(tokenizer)
        self.ends = np.fromiter(sorted(tokenizer.ends), np.int32)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode rows given as JSON texts. A row that cannot be read is `bad` and has the reason."""
        stats = RowStats(len(texts))
        examples: list[tuple[int, Example]] = []
        own: list[tuple[int, Ids]] = []
        for i, text in enumerate(texts):
            try:
                read = self._read(text, stats.counts[i])
            except DataError as error:
                stats.reject(i, str(error))
                continue
            if isinstance(read, Ids):
                own.append((i, read))
            elif any(segment.train for segment in read.segments):
                examples.append((i, read))
        made = self._examples(examples, stats) if examples else stats.encoded(EMPTY, EMPTY, np.zeros(len(texts), np.int64))
        if own:
            given = given_ids(own, stats, self.tokenizer.eos_id)
            part = np.zeros(len(texts), np.int64)
            part[[i for i, _ in own]] = 1
            made = pick([made, given], part, np.arange(len(texts)))
        return stats.without_rejected(made)

    def _read(self, text: str, stats: np.ndarray) -> Example | Ids:
        row: Row = loads(text)
        if not text.isascii() and (found := next((mark for mark in NONCHARACTERS if mark in text), None)):
            raise DataError(f"a field holds the noncharacter U+{ord(found):X}; remove it")
        if self.guard.may_be_in(text):
            stats[COLUMN["control"]] = self.guard.count(row)
            if not self.markup:
                row = self.guard.apply(row)
        return resolve.read(self.format, shaped(row, self.rename, self.join) if self.rename or self.join else row)

    def _examples(self, examples: list[tuple[int, Example]], stats: RowStats) -> Encoded:
        """The examples encoded, each in its row; fills in what is counted of it."""
        segments = Segments.of(examples)
        tokenized = self.tokenizer_of_segments.tokenize(segments.texts, segments.glue)
        stats.counts[segments.row[tokenized.lost], COLUMN["lossy"]] = 1
        for s, problem in tokenized.problems.items():
            stats.reject(segments.row[s], problem)
        if any("<|" in text for text in segments.texts):
            self._note_split(segments, stats)
        ids, lengths = self._with_specials(tokenized, segments)
        trained = segments.train | self.train_on_inputs
        labels = np.where(np.repeat(trained, lengths), ids, np.int32(IGNORE_INDEX))
        count = len(stats.reasons)
        cells, size = segments.row * len(ROLES) + segments.role, count * len(ROLES)
        stats.counts[:, : len(ROLES)] = np.bincount(cells, lengths, size).reshape(-1, len(ROLES))
        stats.counts[:, len(ROLES) : 2 * len(ROLES)] = np.bincount(cells, lengths * trained, size).reshape(-1, len(ROLES))
        self._count_turns(segments, ids, lengths, stats)
        return stats.encoded(ids, labels, np.bincount(segments.row, lengths, count).astype(np.int64))

    def _count_turns(self, segments: Segments, ids: np.ndarray, lengths: np.ndarray, stats: RowStats) -> None:
        """Trained turns of an assistant, and those whose last token ends nothing. lengths: of the segments in ids."""
        spoken = np.flatnonzero((segments.role == ROLE["assistant"]) & segments.train & (lengths > 0))
        if len(spoken):
            stops = np.cumsum(lengths)
            goes_on = np.append((np.diff(spoken) == 1) & (np.diff(segments.row[spoken]) == 0), False)
            last = spoken[~goes_on]
            unended = ~np.isin(ids[stops[last] - 1], self.ends) & segments.ends_turns[last]
            for i in np.flatnonzero(unended).tolist():
                unended[i] = not self._ends_before_blanks(ids[: stops[last[i]]])
            stats.counts[:, COLUMN["turns"]] = np.bincount(segments.row[last], minlength=len(stats.reasons))
            stats.counts[:, COLUMN["unended"]] = np.bincount(segments.row[last], unended, len(stats.reasons))

    def _ends_before_blanks(self, ids: np.ndarray) -> bool:
        """Whether the last token that is not a blank ends a turn: `<|im_end|>⏎`."""
        for id in ids[:-MOST_BLANKS:-1].tolist():
            if id in self.tokenizer.ends:
                return True
            if self.tokenizer.decode([id]).strip():
                return False
        return False

    def _note_split(self, segments: Segments, stats: RowStats) -> None:
        """Names of what looks like a special token and is none of this tokenizer."""
        names_in = LIKE_SPECIAL.findall
        split = {name for name in set(names_in("\n".join(segments.texts))) if self.tokenizer.backend.token_to_id(name) is None}
        for row, text in zip(segments.row, segments.texts, strict=True) if split else ():
            if names := split.intersection(names_in(text)):
                have = stats.split[row]
                stats.split[row] = "\n".join(sorted({*names, *(have.split("\n") if have else ())}))

    def _with_specials(self, tokenized: Tokenized, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
        """ids and lengths of the segments with BOS in front of those that begin, and EOS behind as often as `eos` says."""
        eos, bos = self.tokenizer.eos_id, self.tokenizer.bos
        stops, filled = np.cumsum(tokenized.lengths), tokenized.lengths > 0
        has_eos = np.zeros(len(filled), bool)
        has_eos[filled] = tokenized.ids[stops[filled] - 1] == eos
        missing = np.maximum(segments.eos - has_eos, 0)
        before = segments.begin * len(bos)
        places = np.stack([stops - tokenized.lengths, stops], 1).reshape(-1)
        where = np.repeat(places, np.stack([before, missing], 1).reshape(-1))
        specials = [id for b, m in zip(before.tolist(), missing.tolist(), strict=True) for id in (bos * bool(b) + [eos] * m)]
        return np.insert(tokenized.ids, where, np.array(specials, np.int32)), tokenized.lengths + before + missing
