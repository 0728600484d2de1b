"""The three ways to write an instruction: `:instruct`, `:chat`, `:chatml`.

Texts are those of Axolotl in October 2023, but for two things: instruct has no `### System:` header (the original
Stanford Alpaca prompt has none), and chatml closes the answer with `<|im_end|>` whatever the tokenizer's EOS is.
"""

from dataclasses import dataclass

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.prompts.example import Example, Segment

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
WITHOUT_INPUT = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


@dataclass(frozen=True)
class Style:
    """Templates of one way of writing; `close` ends the trained answer, else the tokenizer's EOS does."""

    system: str
    with_input: str
    without_input: str
    close: str = ""

    def wrap(self, system: str, instruction: str, input: str, answer: str) -> Example:
        """An instruction and its answer as a prompt that is not trained and an answer that is.

        An empty system text leaves the whole system part out; an empty answer leaves nothing trained.
        """
        turn = self.with_input if input else self.without_input
        prompt = (self.system.format(system=system) if system else "") + turn.format(instruction=instruction, input=input)
        return Example((Segment(prompt), *self.answer(answer)))

    def answer(self, answer: str) -> tuple[Segment, ...]:
        """The trained part; what closes it is not doubled where the data brings it along."""
        closed = answer if self.close and answer.endswith(self.close) else answer + self.close
        return (Segment(closed, train=True, end=not self.close),) if answer else ()


STYLES = {
    "instruct": Style(
        system="{system}",
        with_input="### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        without_input="### Instruction:\n{instruction}\n\n### Response:\n",
    ),
    "chat": Style(
        system="SYSTEM: {system}\n",
        with_input="USER: {instruction}\n{input}\nASSISTANT:",
        without_input="USER: {instruction}\nASSISTANT:",
    ),
    "chatml": Style(
        system="<|im_start|>system\n{system}<|im_end|>\n",
        with_input="<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        without_input="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        close="<|im_end|>",
    ),
}


def style_of(name: str | None) -> Style:
    """The style of `alpaca:NAME`; none means instruct. Raises ParamsError for one that does not exist."""
    if (name or "instruct") not in STYLES:
        raise ParamsError(f"no prompt style is called '{name}'{nearest(str(name), STYLES)}; there are {', '.join(STYLES)}")
    return STYLES[name or "instruct"]
