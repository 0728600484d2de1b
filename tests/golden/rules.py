"""What Axolotl of October 2023 made of a row → what is made of it here, where the two differ on purpose.

Works on texts, not on ids, and knows nothing of our encoder: a golden line's `text` and `trained_text` go in, what they
should be comes out, or None where the row is dropped. `bos` is what the tokenizer puts in front of a text.
"""

import re
from dataclasses import dataclass
from typing import Any

HEADED = ("alpaca", "alpaca:instruct", "gpteacher", "gpteacher:instruct", "oasst", "jeopardy", "explainchoice", "alpaca_instruct")
"""Types whose instruct wrapper had the header `### System:`."""
CHATML = ("alpaca:chatml", "alpaca_w_system.load_open_orca_chatml")
"""Types whose answer was closed by EOS instead of `<|im_end|>`."""
ANSWERS = {
    "gpteacher": "response",
    "oasst": "RESPONSE",
    "jeopardy": "answer",
    "summarizetldr": "summary",
    "context_qa": "answer",
    "context_qa.load_v2": "answer",
    "alpaca_chat.load_qa": "answer",
    "alpaca_chat.load_camel_ai": "message_2",
    "alpaca_w_system.load_open_orca": "response",
    "alpaca_w_system.load_open_orca_chatml": "response",
    "orcamini": "response",
    "metharme": "generation",
    "creative_acr.load_answer": "revision",
    "creative_acr.load_revise": "revision",
}
"""Field of the answer where it is not `output`."""
CONVERSATIONS = ("sharegpt", "sharegpt.load_role", "sharegpt.load_guanaco", "sharegpt_jokes")
PREFIX = "ASSISTANT:"
MARKUP = ("completion", "metharme", "pretokenized")


@dataclass(frozen=True)
class Wanted:
    """text: all of it, trained: the trained parts joined; exact: nothing differs, ids and labels are to be the same."""

    text: str
    trained: str
    exact: bool


def wanted(line: dict[str, Any], eos: str, special: tuple[str, ...]) -> Wanted | None:
    """line: of a golden file; special: the tokenizer's special tokens."""
    kind, text, trained = line["config"]["type"], line["text"], line["trained_text"]
    base = kind.partition(":")[0] if isinstance(kind, str) else ""
    everything = line["config"]["train_on_inputs"]
    if base in CONVERSATIONS:
        text, trained = _conversation(line, text, eos)
    if kind == "pygmalion":
        text, trained = _pygmalion(line, text, eos)
    if kind in HEADED:
        text, trained = (_without_header(part) for part in (text, trained))
    if kind == "orcamini" and not line["row"]["system_prompt"]:
        text, trained = (part.replace("### System:\n\n\n", "") for part in (text, trained))
    if kind == "reflection:chat":
        text, trained = (part.replace(eos, f" {line['row']['corrected']}{eos}") for part in (text, trained))
    if kind in CHATML:
        text, trained = (re.sub(rf"(?<!<\|im_end\|>){re.escape(eos)}$", "<|im_end|>", part) for part in (text, trained))
    answer = _answer(line, base)
    if answer and base not in MARKUP and answer.endswith(eos):
        text, trained = text + eos, trained + eos  # what the user wrote is text, and EOS follows it
    if answer == "" or not trained:
        return None
    if everything:
        trained = text
    plain = base in MARKUP or not any(token in str(value) for token in special for value in _strings(line["row"]))
    return Wanted(text, trained, exact=plain and (text, trained) == (line["text"], line["trained_text"]))


def _conversation(line: dict[str, Any], text: str, eos: str) -> tuple[str, str]:
    """No literal `</s>` beside EOS, the role's name is not trained; ChatML has one newline and ends with <|im_end|>."""
    if line["config"].get("conversation") == "chatml":
        text = re.sub(rf"<\|im_end\|>\n\n({re.escape(eos)})?", "<|im_end|>\n", text)
        text = re.sub(r"(?<=<\|im_end\|>\n)\s*(?=user\n|assistant\n)", "<|im_start|>", text)  # it took the first token for BOS
        return text, "".join(re.findall(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", text, re.DOTALL))
    text = text.replace(f"</s>{eos}", eos) if eos != "</s>" else text
    parts = re.findall(rf"{PREFIX}(.*?{re.escape(eos)})(?=USER:|\s*USER:|{PREFIX}|$)", text, re.DOTALL)
    return text, "".join(part for part in parts if part != eos)


def _pygmalion(line: dict[str, Any], text: str, eos: str) -> tuple[str, str]:
    """BOS in front of a conversation without a persona too; an empty answer is not trained."""
    turns = re.findall(rf"<\|model\|>( .*?{re.escape(eos)})", text, re.DOTALL)
    said = [turn for turn in turns if turn.replace(eos, "").strip()]
    if turns and not said:
        text = text.replace(f"<|model|> {eos}", "<|model|>")
    return line["bos"] + text.removeprefix(line["bos"]), "".join(said)


def _without_header(text: str) -> str:
    text = text.replace("### System:\n", "")
    return re.sub(r"\n{3,}### Instruction:", "\n\n### Instruction:", text, count=1)


def _answer(line: dict[str, Any], base: str) -> str | None:
    row, kind = line["row"], line["config"]["type"]
    if isinstance(kind, dict):
        return row.get(kind.get("field_output", "output")) or ""
    if base in ("explainchoice", "concisechoice"):
        return row.get("solution") or row.get("explanation") or ""
    if base in (*CONVERSATIONS, "completion", "pygmalion", "reflection", "context_qa.load_404", "creative_acr.load_critique"):
        return None
    return row.get(ANSWERS.get(base, "output")) or ""


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for inner in value.values() for s in _strings(inner)]
    return [s for inner in value for s in _strings(inner)] if isinstance(value, list) else [str(value)]
