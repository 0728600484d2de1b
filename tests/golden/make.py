"""Writes the golden files of this folder.

    python -m tests.golden.make              ours.jsonl: what every format here makes of a row; read the diff before you commit
    python -m tests.golden.make FOLDER       axolotl-2023.jsonl: a selection of what Axolotl 0.3.0 (commit 5855ddd, October 2023,
                                             transformers 4.34) made of rows, one <type>.jsonl a type in FOLDER

A line of ours.jsonl is {type, conversation, style, row, marked}: the text with what is trained in ⟦ ⟧ and EOS as ◼.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.conversation import templates
from axolotl_core.prompts.example import Example
from axolotl_core.prompts.resolve import format_of

HERE = Path(__file__).parent
OURS, SEED = HERE / "ours.jsonl", HERE / "axolotl-2023.jsonl"
MOST_TOKENS, PER_CONFIG = 150, 2
INSTRUCTION = {"instruction": "Add.", "input": "1 1", "output": "2", "response": "2", "system": "Be brief."}
ORCA = {"system_prompt": "Be brief.", "question": "1 + 1?", "response": "2"}
CHOICE = {"question": "1 + 1?", "choices": ["2", "3"], "solution": "2", "explanation": "It is 2."}
SCORED = {
    "instruction": "Name a colour.",
    "answer": "Red.",
    "revision": "Crimson.",
    "scores": {"refusal": 10, "creativity": None},
    "critiques": {"creativity": {"explanation": "It is: plain – «é».", "improvements": None}},
}
TALK = [("system", "S"), ("human", "a\n\nb"), ("gpt", "c"), ("human", "d"), ("gpt", "e")]
ROWS: dict[str, dict[str, Any]] = {
    **{f"{base}{style}": INSTRUCTION for base in ("alpaca", "gpteacher") for style in ("", ":instruct", ":chat", ":chatml")},
    **{f"oasst{style}": {"INSTRUCTION": "Hi", "RESPONSE": "Hello"} for style in ("", ":chat", ":chatml")},
    **{f"jeopardy{style}": {"question": "Q", "category": "C", "answer": "a"} for style in ("", ":chat", ":chatml")},
    **{f"explainchoice{style}": CHOICE for style in ("", ":chat", ":chatml")},
    "concisechoice": CHOICE,
    "summarizetldr": {"article": "Long.", "summary": "Short."},
    **{f"reflection{style}": {**INSTRUCTION, "reflection": "r", "corrected": "c"} for style in ("", ":instruct", ":chat")},
    "completion": {"text": "Once </s> upon"},
    **{f"alpaca_chat{f}": INSTRUCTION for f in ("", ".load_concise", ".load_no_prompt")},
    "alpaca_chat.load_qa": {"question": "q", "answer": "a"},
    "alpaca_chat.load_camel_ai": {"message_1": "q", "message_2": "a"},
    **{f"alpaca_instruct{f}": INSTRUCTION for f in ("", ".load_no_prompt")},
    **{f"alpaca_w_system{f}": INSTRUCTION for f in ("", ".load_chat", ".load_instruct")},
    **{f"alpaca_w_system{f}": ORCA for f in (".load_open_orca", ".load_open_orca_chatml")},
    "orcamini": ORCA,
    "context_qa": {"article": "A", "question": "q", "answer": "a"},
    "context_qa.load_404": {"article": "A", "unanswerable_question": "q"},
    "context_qa.load_v2": {"context": "A", "question": "q", "answer": "a"},
    "metharme": {"prompt": "<|user|>Hi<|model|>", "generation": "Hello"},
    **{f"creative_acr{f}": SCORED for f in (".load_answer", ".load_critique", ".load_revise")},
    "sharegpt.load_role": {"conversations": [{"role": role, "value": value} for role, value in TALK]},
    "sharegpt.load_guanaco": {"conversations": [{"role": "prompter", "text": "Hi"}, {"role": "assistant", "text": "Hello"}]},
    "sharegpt_jokes": {"title": "T", "text": "j", "explanation": "e"},
    "pygmalion": {"conversations": [{"role": "human", "value": " Hi "}, {"role": "bot", "value": "Hello"}]},
    "llama2_chat": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
}


def ours() -> Iterator[dict[str, Any]]:
    """A line for each type with each of its styles, and one for each conversation."""
    for kind, row in ROWS.items():
        yield _line({"type": kind}, row)
    for name in templates():
        yield _line({"type": "sharegpt", "conversation": name}, {"conversations": [{"from": role, "value": value} for role, value in TALK]})


def _line(settings: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    made = format_of(Dataset(path="x", **settings)).read(row)
    assert isinstance(made, Example)
    return {**settings, "row": row, "marked": made.marked}


def seed(folder: Path) -> Iterator[dict[str, Any]]:
    """At most PER_CONFIG short lines of each type and setting, of the tokenizer that the tests have."""
    for file in sorted(folder.glob("[a-z]*.jsonl")):
        taken: dict[str, int] = {}
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            kind = line["config"]["type"]
            broken = line.get("bugs") or line.get("dropped") or line.get("error") or line.get("chunks", 1) > 1
            key = json.dumps(line["config"])
            wrong = kind is None or kind.startswith("llama2") if isinstance(kind, str | None) else False
            if broken or wrong or kind in ("creative_acr.load_critique", "creative_acr.load_revise") or line["tokenizer"] != "smollm2":
                continue
            if len(line["input_ids"]) > MOST_TOKENS or taken.get(key, 0) >= PER_CONFIG or line["tag"] == "unknown_role":
                continue
            taken[key] = taken.get(key, 0) + 1
            yield {name: line[name] for name in ("config", "row", "tag", "input_ids", "labels", "text", "trained_text")}


def dumped(lines: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


if __name__ == "__main__":
    file, lines = (SEED, seed(Path(sys.argv[1]))) if len(sys.argv) > 1 else (OURS, ours())
    file.write_text(dumped(lines), encoding="utf-8")
    print(f"wrote {file}")
