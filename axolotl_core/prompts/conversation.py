"""How a conversation is written: the templates of conversations.toml, behind `conversation:`.

    vicuna_v1.1   {system} |USER: {text} |ASSISTANT:⟦ {text}◼⟧
    chatml        <|im_start|>system⏎{system}<|im_end|>⏎|<|im_start|>user⏎{text}<|im_end|>⏎|<|im_start|>assistant⏎⟦{text}<|im_end|>⟧⏎
    llama-2       [INST] <<SYS>>⏎{system}⏎<</SYS>>⏎⏎{text} |[/INST]⟦ {text} ◼⟧

A turn is its role's prefix and what follows it, encoded in one; the prefix is not trained, the turn's end is.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.prompts.example import Example, Segment

TEMPLATES = Path(__file__).parent / "conversations.toml"
DEFAULT = "vicuna_v1.1"
BOS, EOS = "{bos}", "</s>"


@dataclass(frozen=True)
class Turn:
    """A role's template, cut up: `USER: {} ` → prefix "USER:", before " ", after " "."""

    prefix: str
    before: str
    after: str
    end: int
    tail: str
    begin: bool

    @staticmethod
    def of(template: str, *, tail: str = "", end: int = 0) -> "Turn":
        begin, template = template.startswith(BOS), template.removeprefix(BOS)
        prefix, _, after = template.partition("{}")
        body, eos, rest = after.partition(EOS)
        return Turn(prefix.rstrip(" "), prefix[len(prefix.rstrip(" ")) :], body, end or len(eos) // len(EOS), rest + tail, begin)

    def write(self, text: str, role: str, *, train: bool, train_prefix: bool) -> list[Segment]:
        """The turn's segments. Without a text nothing is trained; a user's turn then is its prefix alone."""
        has_text = bool(text)
        parts = [Segment(self.prefix, train=train and train_prefix and has_text, role=role, begin=self.begin)]
        if has_text:
            parts.append(Segment(self.before + text + self.after, train=train, end=self.end, glue=True, role=role))
        elif role == "assistant":
            parts.append(Segment(self.after if self.tail else "", end=self.end, glue=True, role=role))
        if self.tail and (has_text or role == "assistant"):
            parts.append(Segment(self.tail, role=role))
        return parts


@dataclass(frozen=True)
class Conversation:
    """One template of conversations.toml."""

    user: Turn
    assistant: Turn
    system: str = "{}"
    default_system: str = ""
    system_always: bool = False
    system_in_user: str = ""
    """The first user's turn with the system text in it, {system}."""
    round: str = ""
    """Goes in front of each user's turn, {} being its number."""
    first_round: int = 0
    joined: bool = False
    """A reply is encoded in one with what it answers, as these models' own text is."""
    single_newlines: bool = False
    """Empty lines inside a turn are taken out, as they end it."""

    def write(
        self,
        system: str,
        turns: Sequence[tuple[str, str]],
        *,
        train: frozenset[str] = frozenset({"assistant"}),
        train_prefix: bool = False,
    ) -> Example:
        """Turns are ("user" or "assistant", text); an empty system means the template's own; train: roles that are trained."""
        system = system or self.default_system
        segments = []
        if (system or self.system_always) and not self.system_in_user:
            before, eos, after = self.system.partition(EOS)
            trained = "system" in train
            segments.append(Segment(before.replace("{}", system), train=trained, end=len(eos) // len(EOS), role="system"))
            segments += [Segment(after, train=trained, role="system")] if after else []
        rounds = 0
        first_user = next((i for i, (role, _) in enumerate(turns) if role == "user"), None)
        for i, (role, text) in enumerate(turns):
            text = text.replace("\r\n", "\n").replace("\n\n", "\n") if self.single_newlines else text
            if role == "user" and self.round:
                segments.append(Segment(self.round.replace("{}", str(rounds + self.first_round)), role="user"))
                rounds += 1
            turn = self.user if role == "user" else self.assistant
            if i == first_user and system and self.system_in_user:
                turn = replace(Turn.of(self.system_in_user), begin=self.user.begin)
                turn = replace(turn, prefix=turn.prefix.replace("{system}", system))
            written = turn.write(text, role, train=role in train, train_prefix=train_prefix)
            joins = self.joined and role == "assistant" and segments and segments[-1].role == "user"
            segments += [replace(written[0], glue=bool(joins), begin=written[0].begin and i > 0), *written[1:]]
        return Example(tuple(segments))

    def with_role_tokens(self, user: str, assistant: str) -> "Conversation":
        """The same with one token for each role's prefix, as StableLM has them."""
        return replace(
            self,
            user=replace(self.user, prefix=user, before=""),
            assistant=replace(self.assistant, prefix=assistant, before=""),
        )


def conversation_of(name: str | None) -> Conversation:
    """The template of `conversation:`; none means vicuna_v1.1. Raises ParamsError for one that does not exist."""
    name, known = name or DEFAULT, templates()
    if name not in known:
        raise ParamsError(f"no conversation is called '{name}'{nearest(name, known)}; there are {', '.join(known)}")
    facts = known[name]
    user, assistant, after = facts["user"], facts["assistant"], facts.get("after", "")
    closed = bool(after) or EOS in assistant
    rest = {key: value for key, value in facts.items() if key not in ("user", "assistant", "after")}
    return Conversation(Turn.of(user), Turn.of(assistant, tail=after, end=0 if closed else 1), **rest)


@cache
def templates() -> dict[str, dict[str, Any]]:
    """Name → facts of conversations.toml."""
    return tomllib.loads(TEMPLATES.read_text(encoding="utf-8"))
