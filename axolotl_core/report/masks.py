"""The mask report of a dataset as text, and the histogram of its lengths."""

from collections.abc import Mapping
from typing import Any

BAR = 40


def mask_report(report: Mapping[str, Any]) -> str:
    """metrics/masks/<dataset>.json as lines."""
    lines = [f"  {report['rows']:,} rows, {report['tokens']:,} tokens, {report['trained_share']:.0%} trained"]
    for role, of in report["roles"].items():
        lines.append(f"  {role:<12} {of['tokens']:>12,} tokens, {of['share']:>5.0%} trained")
    lines.append(f"  {report['turns']:,} answers, {report['turns_whose_end_is_not_trained']:,} whose end is not trained")
    lines.append(f"  {report['rows_without_trained_token']:,} rows without a target token (dropped)")
    lines.append(f"  {report['rows_not_given_back']:,} rows whose ids do not give the text back")
    (how, count), *_ = report["special_tokens_in_fields"].items()
    lines.append(f"  {count:,} special tokens in fields, taken {how.replace('_', ' ')}")
    split = ", ".join(f"{name} in {rows:,} rows" for name, rows in report["special_tokens_split"].items())
    lines.append(f"  looks like a special token and was split: {split or 'nothing'}")
    lines.append(
        "  length " + ", ".join(f"{name} {value:,}" for name, value in report["lengths"].items()) + f", longest {report['longest']:,}"
    )
    return "\n".join(lines)


def bars(lengths: str) -> str:
    """The histogram of lengths, a line a bin."""
    bins = [tuple(map(int, line.split(","))) for line in lengths.splitlines()[1:]]
    most = max(rows for _, rows in bins)
    return "\n".join(f"  {tokens:>8,} {'█' * round(BAR * rows / most):<{BAR}} {rows:,}" for tokens, rows in bins)
