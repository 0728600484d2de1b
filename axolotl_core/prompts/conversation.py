"""How a conversation is written: the templates behind `conversation:`.

    vicuna_v1.1   {system} |USER: {text} |ASSISTANT:⟦ {text}◼⟧
    chatml        <|im_start|>system⏎{system}<|im_end|>⏎|<|im_start|>user⏎{text}<|im_end|>⏎|<|im_start|>assistant⏎⟦{text}<|im_end|>⟧⏎

The role's name is not trained, the turn's end is. Facts of vicuna_v1.1 are those of fschat 0.2.29, its literal `</s>`
being the tokenizer's own EOS.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.prompts.example import Example, Segment


@dataclass(frozen=True)
class Conversation:
    """Templates with one place `{}` each; the assistant's turn is prefix, trained text, and what follows untrained."""

    default_system: str
    system: str
    user: str
    assistant: str
    answer: str
    end: bool = False
    after: str = ""

    def write(self, system: str, turns: Iterable[tuple[str, str]]) -> Example:
        """Turns are ("user" or "assistant", text); an empty system means the template's own."""
        segments = [Segment(self.system.replace("{}", system or self.default_system))]
        for role, text in turns:
            if role == "user":
                segments.append(Segment(self.user.replace("{}", text)))
                continue
            segments.append(Segment(self.assistant))
            if text.strip():
                segments.append(Segment(self.answer.replace("{}", text), train=True, end=self.end))
                segments.append(Segment(self.after))
        return Example(tuple(segment for segment in segments if segment.text))


CONVERSATIONS = {
    "vicuna_v1.1": Conversation(
        default_system=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
        system="{} ",
        user="USER: {} ",
        assistant="ASSISTANT:",
        answer=" {}",
        end=True,
    ),
    "chatml": Conversation(
        default_system="You are a helpful assistant.",
        system="<|im_start|>system\n{}<|im_end|>\n",
        user="<|im_start|>user\n{}<|im_end|>\n",
        assistant="<|im_start|>assistant\n",
        answer="{}<|im_end|>",
        after="\n",
    ),
}


def conversation_of(name: str | None) -> Conversation:
    """The template of `conversation:`; none means vicuna_v1.1. Raises ParamsError for one that does not exist."""
    name = name or "vicuna_v1.1"
    if name not in CONVERSATIONS:
        known = ", ".join(CONVERSATIONS)
        raise ParamsError(f"no conversation is called '{name}'{nearest(name, CONVERSATIONS)}; there are {known}")
    return CONVERSATIONS[name]
