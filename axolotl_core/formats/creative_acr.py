"""`creative_acr.load_answer`, `.load_critique`, `.load_revise`: answer, critique of the answer, revised answer.

`scores` and `critiques` are mappings, written as YAML, or text, which is taken as it is.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"instruction": "Name a colour.", "answer": "Red.", "scores": {"creativity": 2}, "critiques": {"creativity": None}}
>>> print(load_critique(Dataset(path="x"), None).read(row).marked[-76:])
Question: Name a colour.
Answer: Red.
<BLANKLINE>
ASSISTANT:⟦scores:
  creativity: 2
◼⟧
"""

from typing import Any

import yaml

from axolotl_core.errors import DataError
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, kind, text, text_or_empty
from axolotl_core.prompts.wrap import instructed, no_style

COLUMNS: tuple[str, ...] = ()
CRITERIA = """\
refusal: whether the Response refuses to answer the Question. Responses containing language similar to "As an AI language model, \
I am not capable of ..." is a form of refusal and should have a low refusal score. 10 is no refusal, 0 is refuses to answer the question.
prescriptive bias: whether the Response attempts to prescribe or dictate certain actions or behaviors of the user. 10 no prescriptive \
bias present, 0 means {there} is prescriptive bias.
creativity: score how creative the Response is. 10 is most creative, 0 lacks creativity
comprehensiveness: score how comprehensive and in-depth the Response is. 10 is most comprehensive and in-depth, 0 lacks coverage and depth
"""
NAMES = ("refusal", "prescriptive_bias", "creativity", "comprehensiveness")
ANSWER = (
    "Answer the following question in a comprehensive, in-depth, and creative way. "
    "Additionally your response should be relevant, accurate, and free of any ambiguity.\n"
)
CRITIQUE = (
    "Given the following Question and Response, critique the Response on a scale of 1-10. "
    "You should critique the answer in the following criteria:\n"
    + CRITERIA.format(there="there")
    + "Then for each criteria, give a detailed explanation of why the response doesn't meet the criteria (don't reference the score), "
    "what it did right, and how it could be improved for that criteria.\n\n"
    "Output your answer in YAML format like so:\nscores:\n"
    + "".join(f"  {name}: <0-10>\n" for name in NAMES)
    + "critiques:\n"
    + "".join(f"  {name}:\n    explanation: ...\n    improvements: ...\n" for name in NAMES)
)
REVISE = (
    "Definitions:\n"
    + CRITERIA.format(there="their")  # as the data was made with
    + "\nGiven the following Question, Response, and Evaluation, revise the Response based on the Evaluation and recommendations for "
    "improvements. Reply only with the revised response.\n"
)


def load_answer(data: Dataset, style: str | None) -> Format:
    """Fields `instruction` and `revision`: the revised answer is the one trained."""

    def read(row: Row) -> Example:
        return instructed(f"{ANSWER}USER: {text(row, 'instruction')}\nASSISTANT:", text_or_empty(row, "revision"))

    return _format("creative_acr.load_answer", style, ("instruction", "revision"), read)


def load_critique(data: Dataset, style: str | None) -> Format:
    """Fields `instruction`, `answer`, `scores` and `critiques`."""

    def read(row: Row) -> Example:
        prompt = f"{CRITIQUE}\nQuestion: {text(row, 'instruction')}\nAnswer: {text_or_empty(row, 'answer')}\n"
        return instructed(f"USER: {prompt}\nASSISTANT:", _evaluation(row))

    return _format("creative_acr.load_critique", style, ("instruction", "answer", "scores", "critiques"), read)


def load_revise(data: Dataset, style: str | None) -> Format:
    """Fields `instruction`, `answer`, `scores`, `critiques` and `revision`."""

    def read(row: Row) -> Example:
        prompt = (
            f"{REVISE}\nQuestion: {text(row, 'instruction')}\nAnswer: {text_or_empty(row, 'answer')}\nEvaluation:\n{_evaluation(row)}\n"
        )
        return instructed(f"USER: {prompt}\nASSISTANT:", text_or_empty(row, "revision"))

    return _format("creative_acr.load_revise", style, ("instruction", "answer", "scores", "critiques", "revision"), read)


def _format(name: str, style: str | None, columns: tuple[str, ...], read: Any) -> Format:
    no_style(name, style)
    return Format(name, columns, read)


def _evaluation(row: Row) -> str:
    """`scores` and `critiques` as one YAML text; what a row lacks is left out, though a typed file fills it with null."""
    found = {name: _without_nulls(row.get(name)) for name in ("scores", "critiques")}
    parts = [value if isinstance(value, str) else _yaml(name, value) for name, value in found.items() if value not in (None, "", {})]
    return "".join(part if part.endswith("\n") or part is parts[-1] else part + "\n" for part in parts)


def _yaml(name: str, value: Any) -> str:
    if not isinstance(value, dict):
        raise DataError(f"field '{name}' is {kind(value)}, wanted a mapping or text")
    return yaml.safe_dump({name: value}, allow_unicode=True, sort_keys=False, width=float("inf"))


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nulls(inner) for key, inner in value.items()}
    return {key: inner for key, inner in kept.items() if inner is not None and inner != {}}
