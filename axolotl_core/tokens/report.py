"""The mask report: what of a dataset is trained, and what looks wrong.

    roles     prompt 9,120 tokens, none trained; assistant 4,310 tokens, 100 % trained
    turns     310, of which 0 have an end that is not trained
    lengths   p50 38, p99 120, longest 142

A turn's end is trained when its last target token is the tokenizer's EOS or another added token: a model that never
saw it trained does not learn to stop.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from axolotl_core.prompts.example import ROLES
from axolotl_core.tokens.encoded import COLUMN, STATS, Encoded

PERCENTILES = (1, 25, 50, 75, 90, 95, 99)
BINS = 40
MOST_NAMED = 10


@dataclass
class MaskReport:
    """Filled block by block. `named`: places of the first rows with a turn without trained end, and with text that is lost."""

    totals: np.ndarray = field(default_factory=lambda: np.zeros(len(STATS), np.int64))
    lengths: list[np.ndarray] = field(default_factory=list)
    split: Counter[str] = field(default_factory=Counter)
    untrained: int = 0
    named: dict[str, list[str]] = field(default_factory=lambda: {"unended": [], "lossy": []})
    affected: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Encoded, place: Callable[[int], str]) -> None:
        """Count a block; place: where row i stands in the user's files."""
        self.totals += rows.stats.sum(axis=0)
        self.lengths.append(rows.lengths[rows.lengths > 0].astype(np.int32))
        self.untrained += sum(reason is not None for reason in rows.reasons) - int(rows.bad.sum())
        for names in filter(None, rows.split):
            self.split.update(names.split("\n"))
        for what, named in self.named.items():
            wrong = np.flatnonzero(rows.stats[:, COLUMN[what]]).tolist()
            self.affected[what] += len(wrong)
            named += [place(i) for i in wrong[: MOST_NAMED - len(named)]]

    def sums(self) -> dict[str, int]:
        """Rows, tokens, target tokens, and the longest row."""
        lengths = self._all()
        trained = int(self.totals[len(ROLES) : 2 * len(ROLES)].sum())
        return {"rows": len(lengths), "tokens": int(lengths.sum()), "trained_tokens": trained, "longest": int(lengths.max(initial=0))}

    def refusal(self) -> str | None:
        """Why the dataset must not be trained on, with its rows, or None."""
        problems = []
        if self.affected["unended"]:
            split = f" ({', '.join(sorted(self.split))} is not one token: add it to tokenizer.tokens)" if self.split else ""
            problems.append(
                f"{self._rows('unended')}: the end of an answer is never trained, so the model would not learn to stop{split}; "
                "choose another template, or set prompt.mask_check to warn"
            )
        if self.affected["lossy"]:
            problems.append(
                f"{self._rows('lossy')}: the ids do not give the text back, so the model would learn another text; "
                "choose another tokenizer, or set prompt.mask_check to warn"
            )
        return "\n".join(problems) or None

    def facts(self, markup: bool) -> dict[str, Any]:
        """The report as it is written. markup: whether special tokens in the user's fields are tokens."""
        roles = {}
        for i, role in enumerate(ROLES):
            tokens, trained = int(self.totals[i]), int(self.totals[len(ROLES) + i])
            if tokens:
                roles[role] = {"tokens": tokens, "trained": trained, "share": round(trained / tokens, 4)}
        lengths, sums = self._all(), self.sums()
        return {
            **sums,
            "trained_share": round(sums["trained_tokens"] / max(1, sums["tokens"]), 4),
            "roles": roles,
            "rows_without_trained_token": self.untrained,
            "turns": int(self.totals[COLUMN["turns"]]),
            "turns_whose_end_is_not_trained": int(self.totals[COLUMN["unended"]]),
            "rows_not_given_back": self.affected["lossy"],
            "special_tokens_in_fields": {"as_tokens" if markup else "as_text": int(self.totals[COLUMN["control"]])},
            "special_tokens_split": dict(sorted(self.split.items())),
            "lengths": {f"p{p}": int(np.percentile(lengths, p, method="lower")) for p in PERCENTILES} if len(lengths) else {},
        }

    def histogram(self) -> str:
        """CSV of lengths: `tokens,rows`, at most 40 bins of one width, `tokens` being a bin's lower edge."""
        lengths = self._all()
        width = max(1, -(-int(lengths.max(initial=0)) // BINS))
        counts = np.bincount(lengths // width)
        return "tokens,rows\n" + "".join(f"{i * width},{count}\n" for i, count in enumerate(counts.tolist()))

    def _rows(self, what: str) -> str:
        more = self.affected[what] - len(self.named[what])
        return ", ".join(self.named[what]) + (f" and {more:,} more rows" if more else "")

    def _all(self) -> np.ndarray:
        return np.concatenate(self.lengths or [np.zeros(0, np.int32)])
