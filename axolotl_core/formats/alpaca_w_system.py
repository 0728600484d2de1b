"""`alpaca_w_system`, `.load_chat`, `.load_instruct`, `.load_open_orca`, `.load_open_orca_chatml`: each row has a system text.

It is left out where it is empty; `load_open_orca` and `load_open_orca_chatml` read OpenOrca's field names.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"system": "Be brief.", "instruction": "Add.", "input": "1 1", "output": "2"}
>>> print(load(Dataset(path="x"), None).read(row).marked)
SYSTEM: Be brief.
USER: Add.
1 1
ASSISTANT:⟦2◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import CHAT, CHATML, INSTRUCT, Style, no_style

COLUMNS = ("system", "instruction", "output")
ORCA_COLUMNS = ("system_prompt", "question", "response")
HEADED = Style(lambda text: f"### System:\n{text}\n\n", INSTRUCT.with_input, INSTRUCT.without_input)
ORCA = Style(lambda text: f"### System:\n{text}\n", "", "### Human:\n{instruction}\n### Assistant:\n")


def load(data: Dataset, style: str | None) -> Format:
    """Fields `system`, `instruction`, `input` (may be missing) and `output`."""
    return _format("alpaca_w_system", style, CHAT, COLUMNS)


def load_chat(data: Dataset, style: str | None) -> Format:
    """The same as `load`."""
    return _format("alpaca_w_system.load_chat", style, CHAT, COLUMNS)


def load_instruct(data: Dataset, style: str | None) -> Format:
    """The same fields, with the headers `### System:`, `### Instruction:`, `### Response:`."""
    return _format("alpaca_w_system.load_instruct", style, HEADED, COLUMNS)


def load_open_orca(data: Dataset, style: str | None) -> Format:
    """Fields `system_prompt`, `question` and `response`, with the headers `### Human:` and `### Assistant:`."""
    return _format("alpaca_w_system.load_open_orca", style, ORCA, ORCA_COLUMNS)


def load_open_orca_chatml(data: Dataset, style: str | None) -> Format:
    """The same fields as ChatML."""
    return _format("alpaca_w_system.load_open_orca_chatml", style, CHATML, ORCA_COLUMNS)


def _format(name: str, style: str | None, wrap: Style, columns: tuple[str, str, str]) -> Format:
    no_style(name, style)
    system, instruction, output = columns
    input = "input" if columns is COLUMNS else ""

    def read(row: Row) -> Example:
        return wrap.wrap(text_or_empty(row, system), text(row, instruction), text_or_empty(row, input), text_or_empty(row, output))

    return Format(name, columns, read)
