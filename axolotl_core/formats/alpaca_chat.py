"""`alpaca_chat`, `.load_concise`, `.load_qa`, `.load_camel_ai`, `.load_no_prompt`: alpaca with roles.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"question": "1 + 1?", "answer": "2"}
>>> print(load_qa(Dataset(path="x"), None).read(row).marked)  # doctest: +NORMALIZE_WHITESPACE
SYSTEM: Below is an instruction from a USER that describes a task.
The ASSISTANT writes a response that appropriately and concisely completes the request.
USER: 1 + 1?
ASSISTANT:⟦2◼⟧
"""

from axolotl_core.errors import DataError
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import CHAT, WITH_INPUT, WITHOUT_INPUT, no_style

COLUMNS = ("instruction",)
CONCISE_WITH_INPUT = (
    "Below is an instruction from a USER that describes a task, paired with an input that provides further context. "
    "The ASSISTANT writes a response that concisely and appropriately completes the request.\n\n"
)
CONCISE_WITHOUT_INPUT = (
    "Below is an instruction from a USER that describes a task. "
    "The ASSISTANT writes a response that appropriately and concisely completes the request.\n\n"
)


def load(data: Dataset, style: str | None) -> Format:
    """Fields `instruction`, `input` (may be missing) and `output`, or `response` where there is no output."""
    return _instruction("alpaca_chat", style, WITH_INPUT, WITHOUT_INPUT)


def load_concise(data: Dataset, style: str | None) -> Format:
    """The same with a system text that asks for short answers."""
    return _instruction("alpaca_chat.load_concise", style, CONCISE_WITH_INPUT, CONCISE_WITHOUT_INPUT)


def load_no_prompt(data: Dataset, style: str | None) -> Format:
    """The same without a system text."""
    return _instruction("alpaca_chat.load_no_prompt", style, "", "")


def load_qa(data: Dataset, style: str | None) -> Format:
    """Fields `question` and `answer`."""
    no_style("alpaca_chat.load_qa", style)
    read = CHAT.reader("question", "answer", input="", systems=("", CONCISE_WITHOUT_INPUT))
    return Format("alpaca_chat.load_qa", ("question", "answer"), read)


def load_camel_ai(data: Dataset, style: str | None) -> Format:
    """Fields `message_1` and `message_2`."""
    no_style("alpaca_chat.load_camel_ai", style)
    read = CHAT.reader("message_1", "message_2", input="", systems=("", CONCISE_WITHOUT_INPUT))
    return Format("alpaca_chat.load_camel_ai", ("message_1", "message_2"), read)


def _instruction(name: str, style: str | None, with_input: str, without_input: str) -> Format:
    no_style(name, style)

    def read(row: Row) -> Example:
        if not {"output", "response"} & row.keys():
            raise DataError(f"format {name} wants the field 'output', the row has {', '.join(row)}")
        given = text_or_empty(row, "input")
        reply = text_or_empty(row, "output") or text_or_empty(row, "response")
        return CHAT.wrap(with_input if given else without_input, text(row, "instruction"), given, reply)

    return Format(name, COLUMNS, read)
