"""`type:` as a mapping: the prompt stands in params.yaml.

>>> from axolotl_core.params.datasets import Dataset, UserPrompt
>>> prompt = UserPrompt(field_instruction="q", field_output="a", no_input_format="Q: {instruction}\\nA:")
>>> row = {"q": "1 + 1?", "a": " 2"}
>>> print(load(Dataset(path="x", type=prompt), None).read(row).marked)
Q: 1 + 1?
A:⟦ 2◼⟧
"""

import string

from axolotl_core.errors import ParamsError
from axolotl_core.params.datasets import Dataset, UserPrompt
from axolotl_core.prompts.example import Example, Format, Row, text, text_or_empty
from axolotl_core.prompts.wrap import instructed

COLUMNS: tuple[str, ...] = ()
PLACES = {"format": {"instruction", "input"}, "no_input_format": {"instruction"}, "system_format": {"system"}}


def load(data: Dataset, style: str | None) -> Format:
    """Raises ParamsError for a template with a place that nothing fills."""
    prompt = data.type
    if not isinstance(prompt, UserPrompt):
        raise ParamsError("user_defined is written as a mapping under `type:`, with field_instruction, format and so on")
    for option, allowed in PLACES.items():
        _check(option, getattr(prompt, option), allowed)

    def read(row: Row) -> Example:
        system = text_or_empty(row, prompt.field_system) or prompt.system_prompt
        instruction, given = text(row, prompt.field_instruction), text_or_empty(row, prompt.field_input)
        turn = prompt.format if given else prompt.no_input_format
        before = prompt.system_format.format(system=system) if system else ""
        return instructed(before + turn.format(instruction=instruction, input=given), text_or_empty(row, prompt.field_output))

    return Format("user_defined", (prompt.field_instruction,), read)


def _check(option: str, template: str, allowed: set[str]) -> None:
    wanted = " and ".join(f"{{{name}}}" for name in sorted(allowed))
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ParamsError(f"{option}: {error}; a literal brace is written twice, {{{{ or }}}}") from None
    for name in sorted(used - allowed):
        raise ParamsError(f"{option}: got the place {{{name}}}, wanted {wanted}; a literal brace is written twice")
