"""evaluation/ as text: losses before and after, replies side by side."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 38
LINES = 7


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The table of metrics, then the replies. report: evaluation/report.json."""
    yield "\n" + metrics(report["before"], report["after"])
    for i, reply in enumerate(report["replies"], 1):
        yield f"\n{i}. {_question(reply['prompt'])}"
        yield columns("before", reply["before"], "after", reply["after"])


def metrics(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Loss, perplexity and accuracy before and after, a line per dataset."""
    if not after["tokens"]:
        return "there are no validation rows (packing.val_set_size), so there is no loss to show"
    lines = [f"{'validation':<16}{'tokens':>8}{'loss before':>14}{'after':>9}{'change':>9}{'accuracy before':>17}{'after':>9}"]
    for name in ("all", *after["datasets"]):
        b, a = (before, after) if name == "all" else (before["datasets"][name], after["datasets"][name])
        if a["tokens"]:
            lines.append(
                f"{name:<16}{a['tokens']:>8,}{b['loss']:>14.3f}{a['loss']:>9.3f}{a['loss'] / b['loss'] - 1:>9.0%}"
                f"{b['accuracy']:>17.0%}{a['accuracy']:>9.0%}"
            )
    return "\n".join(lines)


def columns(left: str, left_text: str, right: str, right_text: str) -> str:
    """Two texts side by side, cut after a few lines."""
    sides = [_wrapped(text) for text in (left_text, right_text)]
    rows = max(map(len, sides))
    lines = [f"   {left:<{WIDTH}} │ {right}", f"   {'─' * WIDTH}─┼─{'─' * WIDTH}"]
    for i in range(rows):
        cells = [side[i] if i < len(side) else "" for side in sides]
        lines.append(f"   {cells[0]:<{WIDTH}} │ {cells[1]}")
    return "\n".join(line.rstrip() for line in lines)


def _wrapped(text: str) -> list[str]:
    lines = [part for line in text.splitlines() for part in (textwrap.wrap(line, WIDTH) or [""])] or ["(nothing)"]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"]


def _question(prompt: str) -> str:
    """The last thing the user said, without the words of the template around it."""
    lines = [line for line in prompt.splitlines() if line.strip() and line.strip(":# ").lower() not in ("assistant", "response", "user")]
    return lines[-1].strip() if lines else prompt
