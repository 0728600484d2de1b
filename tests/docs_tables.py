"""The generated parts of README.md and docs/.

python -m tests.docs_tables      rewrites them
"""

import ast
import doctest
import html
import re
import typing
from pathlib import Path

from axolotl_core import lookup
from axolotl_core.cli.templates import shipped
from axolotl_core.params.datasets import UserPrompt
from axolotl_core.params.docs import docstrings
from axolotl_core.params.model import RopeScaling
from axolotl_core.params.params import SECTIONS
from axolotl_core.params.section import Section, Supported
from axolotl_core.prompts.resolve import FORMATS
from axolotl_core.stages.graph import STAGES
from tests.families import seen

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


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
    kinds: dict[str, type[Section]] = {**SECTIONS, "model.rope_scaling": RopeScaling, "datasets.NAME.type, as a mapping": UserPrompt}
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


def families() -> str:
    """Types of models by what was seen of them (tests/test_families.py)."""
    rows = {
        "packed rows": [name for name, found in seen().items() if found["packed"]],
        "a sample a row, packing is refused": [name for name, found in seen().items() if not found["packed"]],
        "LoRA with `lora_dropout: 0` only, for its experts are one weight": [
            name for name, found in seen().items() if not found["dropout"]
        ],
    }
    shown = {told: ", ".join(name if " " in name else f"`{name}`" for name in names) for told, names in rows.items()}
    return "\n".join(["| | `model_type` |", "|---|---|", *(f"| {told} | {names} |" for told, names in shown.items())])


ERRORS = ("ParamsError", "DataError", "ArtifactError", "ModelError", "TrainError", "Interrupted", "MachineError")


def messages() -> str:
    """Every message of an error in the code, by its class."""
    found: dict[str, set[str]] = {name: set() for name in ERRORS}
    for folder in ("axolotl_core", "stages"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and node.args:
                    name = ast.unparse(node.func)
                    if name in ERRORS and len(re.findall(r"[a-z]{2,}", text := _template(node.args[0]))) > 2:
                        found[name].add(text)
                    if name == "Conflict" and len(node.args) == 3 and (text := _template(node.args[2])):
                        found["ParamsError"].add(re.sub(r"\{[^}]*\}", "…", text))
    return "\n\n".join(f"### {name}\n\n" + "\n".join(f"- {_shown(text)}" for text in sorted(texts)) for name, texts in found.items())


def _template(node: ast.expr) -> str:
    """A message with `…` for what is filled in; empty for one that is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def _shown(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("*", "\\*").replace("_", "\\_").replace("[", "\\[").replace("|", "\\|")


def filled(text: str) -> str:
    """A page with every generated part as it should be."""
    for make in (pipelines, formats, sections, options, families, messages):
        name = make.__name__
        text = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, made=make: f"{m[1]}{made()}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
