"""Rows → ids and labels, a block at a time.

    segments   ["### Instruction:…Response:\\n", "2" train end]
    ids        14   3   88 … 7 | 34   2         one encode_batch_fast over all segments of the block
    labels   -100 -100 -100 …  | 34   2         set together with the ids, so they cannot drift

Each segment is encoded by itself, but those glued together, which are encoded in one: there a token is trained when
its first character is. BOS goes in front of a row if the tokenizer adds one, EOS after a segment that says `end`.
Labels are not shifted. On the way it is seen whether the ids give the text back and whether each turn's end is trained.
"""

import re
from collections.abc import Mapping, Sequence

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
        self.cutter = SegmentTokenizer(tokenizer)
        self.ends = np.fromiter(sorted(tokenizer.ends), np.int32)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode rows given as JSON texts. A row that cannot be read is `bad` and has the reason."""
        draft = RowStats(len(texts))
        examples: list[tuple[int, Example]] = []
        own: list[tuple[int, Ids]] = []
        for i, text in enumerate(texts):
            try:
                read = self._read(text, draft.stats[i])
            except DataError as error:
                draft.reject(i, str(error))
                continue
            if isinstance(read, Ids):
                own.append((i, read))
            elif any(segment.train for segment in read.segments):
                examples.append((i, read))
        made = self._examples(examples, draft) if examples else draft.encoded(EMPTY, EMPTY, np.zeros(len(texts), np.int64))
        if own:
            given = given_ids(own, draft, self.tokenizer.eos_id)
            part = np.zeros(len(texts), np.int64)
            part[[i for i, _ in own]] = 1
            made = pick([made, given], part, np.arange(len(texts)))
        return draft.without_rejected(made)

    def _read(self, text: str, stats: np.ndarray) -> Example | Ids:
        row: Row = loads(text)
        if not text.isascii() and (found := next((mark for mark in NONCHARACTERS if mark in text), None)):
            raise DataError(f"a field holds the noncharacter U+{ord(found):X}; remove it")
        if self.guard.may_be_in(text):
            stats[COLUMN["control"]] = self.guard.count(row)
            if not self.markup:
                row = self.guard.apply(row)
        return resolve.read(self.format, shaped(row, self.rename, self.join) if self.rename or self.join else row)

    def _examples(self, examples: list[tuple[int, Example]], draft: RowStats) -> Encoded:
        """The examples encoded, each in its row; fills in what is counted of it."""
        segments = [segment for _, example in examples for segment in example.segments]
        counts = np.fromiter((len(example.segments) for _, example in examples), np.int64, len(examples))
        rows = np.repeat(np.fromiter((i for i, _ in examples), np.int64, len(examples)), counts)
        texts = [segment.text for segment in segments]
        cut = self.cutter.cut(texts, np.fromiter((segment.glue for segment in segments), bool, len(segments)))
        draft.stats[rows[cut.lost], COLUMN["lossy"]] = 1
        for s, told in cut.problems.items():
            draft.reject(rows[s], told)
        if any("<|" in text for text in texts):
            self._note_split(texts, rows, draft)
        begins = np.fromiter((segment.begin for segment in segments), bool, len(segments))
        begins[(np.cumsum(counts) - counts)[[example.bos for _, example in examples]]] = True
        ids, lengths = self._with_ends(cut, begins, np.fromiter((segment.end for segment in segments), np.int64, len(segments)))
        own = np.fromiter((segment.train for segment in segments), bool, len(segments))
        trained = own | self.train_on_inputs
        labels = np.where(np.repeat(trained, lengths), ids, np.int32(IGNORE_INDEX))
        roles = np.fromiter((ROLE[segment.role] for segment in segments), np.int64, len(segments))
        count = len(draft.reasons)
        cells, size = rows * len(ROLES) + roles, count * len(ROLES)
        draft.stats[:, : len(ROLES)] = np.bincount(cells, lengths, size).reshape(-1, len(ROLES))
        draft.stats[:, len(ROLES) : 2 * len(ROLES)] = np.bincount(cells, lengths * trained, size).reshape(-1, len(ROLES))
        asked = np.repeat(np.fromiter((example.ends for _, example in examples), bool, len(examples)), counts)
        self._count_turns((roles == ROLE["assistant"]) & own & (lengths > 0), rows, np.cumsum(lengths), ids, asked, draft)
        return draft.encoded(ids, labels, np.bincount(rows, lengths, count).astype(np.int64))

    def _count_turns(
        self, said: np.ndarray, rows: np.ndarray, stops: np.ndarray, ids: np.ndarray, asked: np.ndarray, draft: RowStats
    ) -> None:
        """Turns, and those whose last token ends nothing. said: which segments an assistant says, trained; stops: their ends in ids."""
        spoken = np.flatnonzero(said)
        if len(spoken):
            goes_on = np.append((np.diff(spoken) == 1) & (np.diff(rows[spoken]) == 0), False)
            last = spoken[~goes_on]
            unended = ~np.isin(ids[stops[last] - 1], self.ends) & asked[last]
            for i in np.flatnonzero(unended).tolist():
                unended[i] = not self._ends_before_blanks(ids[: stops[last[i]]])
            draft.stats[:, COLUMN["turns"]] = np.bincount(rows[last], minlength=len(draft.reasons))
            draft.stats[:, COLUMN["unended"]] = np.bincount(rows[last], unended, len(draft.reasons))

    def _ends_before_blanks(self, ids: np.ndarray) -> bool:
        """Whether the last token that is not a blank ends a turn: `<|im_end|>⏎`."""
        for id in ids[:-MOST_BLANKS:-1].tolist():
            if id in self.tokenizer.ends:
                return True
            if self.tokenizer.decode([id]).strip():
                return False
        return False

    def _note_split(self, texts: list[str], rows: np.ndarray, draft: RowStats) -> None:
        """Names of what looks like a special token and is none of this tokenizer."""
        split = {name for name in set(LIKE_SPECIAL.findall("\n".join(texts))) if self.tokenizer.backend.token_to_id(name) is None}
        for s, text in enumerate(texts) if split else ():
            if names := split.intersection(LIKE_SPECIAL.findall(text)):
                have = draft.split[rows[s]]
                draft.split[rows[s]] = "\n".join(sorted({*names, *(have.split("\n") if have else ())}))

    def _with_ends(self, cut: Tokenized, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ids and lengths of the segments with BOS in front of those that begin, and EOS behind as often as `ends` says."""
        eos, bos = self.tokenizer.eos_id, self.tokenizer.bos
        stops = np.cumsum(cut.lengths)
        have = np.zeros(len(ends), bool)
        have[cut.lengths > 0] = cut.ids[stops[cut.lengths > 0] - 1] == eos
        missing = np.maximum(ends - have, 0)
        before = begins * len(bos)
        where = np.repeat(np.stack([stops - cut.lengths, stops], 1).reshape(-1), np.stack([before, missing], 1).reshape(-1))
        put = np.array([id for b, m in zip(before.tolist(), missing.tolist(), strict=True) for id in (bos * bool(b) + [eos] * m)], np.int32)
        return np.insert(cut.ids, where, put), cut.lengths + before + missing
