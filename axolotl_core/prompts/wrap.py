"""The three ways to write an instruction: `:instruct`, `:chat`, `:chatml`.

Texts are those of Axolotl in October 2023, but for two things: instruct has no `### System:` header (the original
Stanford Alpaca prompt has none), and chatml closes the answer with `<|im_end|>` whatever the tokenizer's EOS is.
"""

from collections.abc import Callable
from dataclasses import dataclass

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.prompts.example import Example, Row, Segment, answer, text, text_or_empty

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
WITHOUT_INPUT = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


@dataclass(frozen=True)
class Style:
    """Templates of one way of writing; `close` ends the trained answer, else the tokenizer's EOS does."""

    system: Callable[[str], str]
    with_input: str
    without_input: str
    close: str = ""

    def wrap(self, system: str, instruction: str, input: str, reply: str) -> Example:
        """An instruction and its answer as a prompt that is not trained and an answer that is.

        An empty system text leaves the whole system part out; an empty answer leaves nothing trained.
        """
        turn = self.with_input if input else self.without_input
        prompt = (self.system(system) if system else "") + turn.format(instruction=instruction, input=input)
        return instructed(prompt, reply, self.close)

    def reader(
        self, instruction: str, output: str, *, input: str = "input", systems: tuple[str, str] = ("", "")
    ) -> Callable[[Row], Example]:
        """Reads rows whose fields have these names; systems: the system text with and without an input."""

        def read(row: Row) -> Example:
            given = text_or_empty(row, input)
            return self.wrap(systems[0] if given else systems[1], text(row, instruction), given, text_or_empty(row, output))

        return read


def instructed(prompt: str, reply: str, close: str = "") -> Example:
    """A prompt and its answer, each encoded by itself; what closes the answer is not doubled where the data brings it along."""
    if not reply:
        return Example((Segment(prompt),))
    return Example((Segment(prompt), answer(reply if close and reply.endswith(close) else reply + close, end=0 if close else 1)))


STYLES = {
    "instruct": Style(
        system=lambda text: text.rstrip("\n") + "\n\n",
        with_input="### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        without_input="### Instruction:\n{instruction}\n\n### Response:\n",
    ),
    "chat": Style(
        system=lambda text: f"SYSTEM: {text}\n",
        with_input="USER: {instruction}\n{input}\nASSISTANT:",
        without_input="USER: {instruction}\nASSISTANT:",
    ),
    "chatml": Style(
        system=lambda text: f"<|im_start|>system\n{text}<|im_end|>\n",
        with_input="<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        without_input="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
        close="<|im_end|>",
    ),
}
INSTRUCT, CHAT, CHATML = STYLES.values()


def style_of(name: str | None, known: tuple[str, ...] = tuple(STYLES)) -> Style:
    """The style of `alpaca:NAME`; none means instruct. Raises ParamsError for one that does not exist."""
    if (name or "instruct") not in known:
        raise ParamsError(f"no prompt style is called '{name}'{nearest(str(name), known)}; there are {', '.join(known)}")
    return STYLES[name or "instruct"]


def no_style(format: str, style: str | None, instead: str = "") -> None:
    """Raises ParamsError where `type: completion:chat` names a style for a format that has none."""
    if style is not None:
        instead = instead or f"remove ':{style}'"
        raise ParamsError(f"{format} has no style, got '{format}:{style}'; {instead}")
