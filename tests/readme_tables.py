"""The generated tables of README.md.

python -m tests.readme_tables      rewrites them
"""

import doctest
import html
import re
import typing
from pathlib import Path

from axolotl_core import lookup
from axolotl_core.cli.templates import shipped
from axolotl_core.params.datasets import UserPrompt
from axolotl_core.params.docs import docstrings
from axolotl_core.params.params import SECTIONS
from axolotl_core.params.section import Section, Supported
from axolotl_core.prompts.resolve import FORMATS
from axolotl_core.stages.graph import STAGES

README = Path(__file__).parent.parent / "README.md"


def pipelines() -> str:
    rows = [f"| `{name}` | {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')} |" for name, path in shipped().items()]
    return "\n".join(["| pipeline | |", "|---|---|", *rows])


def formats() -> str:
    """A line a format, and below the row of each docstring with the text made of it."""
    lines, examples = ["| `type` | reads | columns |", "|---|---|---|"], []
    for name in lookup.names(FORMATS):
        module = lookup.find(FORMATS, name, "format")
        told = " ".join(str(module.__doc__).split("\n\n")[0].split())
        names, _, reads = told.partition(": ")
        columns = ", ".join(f"`{column}`" for column in module.COLUMNS)
        lines.append(f"| {names} | {reads} | {columns} |")
        *given, last = doctest.DocTestParser().get_examples(str(module.__doc__))
        row = "".join(e.source for e in given if not e.source.startswith(("from ", "import "))).strip().removeprefix("row = ")
        made = html.escape(f"{row}\n\n{last.want.replace('<BLANKLINE>', '').strip(chr(10))}", quote=False)
        examples.append(f"<details><summary>{_code(names)}</summary>\n\n<pre>\n{made}\n</pre>\n\n</details>")
    return "\n".join(lines) + "\n\nA row of each and the text made of it:\n\n" + "\n".join(examples)


def _code(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))


def sections() -> str:
    rows = []
    for name, kind in SECTIONS.items():
        readers = [stage.name + ("@…" if stage.each else "") for stage in STAGES if name in stage.sections]
        told = f"{', '.join(readers)} →" if readers else "nothing"
        if name == "datasets":
            told = "fetch and tokenize of the dataset edited, pack →"
        rows.append(f"| `{name}` | {told} | {kind.__doc__.split('.')[0].strip()} |")
    return "\n".join(["| section | an edit re-runs | holds |", "|---|---|---|", *rows])


def options() -> str:
    kinds: dict[str, type[Section]] = {**SECTIONS, "datasets.NAME.type, as a mapping": UserPrompt}
    return "\n\n".join(
        f"<details><summary><code>{name}</code></summary>\n\n| option | default | |\n|---|---|---|\n{_rows(kind)}\n\n</details>"
        for name, kind in kinds.items()
    )


def _rows(kind: type[Section]) -> str:
    docs = docstrings(kind)
    return "\n".join(f"| `{name}` | {_default(field)} | {docs[name]}{_built(field)} |" for name, field in kind.model_fields.items())


def _default(field: typing.Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value in (None, [], {}, ""):
        return "unset"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _built(field: typing.Any) -> str:
    mark = next((m for m in field.metadata if isinstance(m, Supported)), None)
    if mark is None:
        return ""
    return " *Not acted on yet.*" if not mark.values else ""


def filled(text: str) -> str:
    """README with every generated table as it should be."""
    for make in (pipelines, formats, sections, options):
        name = make.__name__
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, made=make: f"{m[1]}{made()}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
