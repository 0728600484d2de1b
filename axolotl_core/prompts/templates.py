"""Which chat template a dataset is written by: the tokenizer's own, one that comes with axolotl, or one of the user's.

The templates in chat_templates/ have the names that Axolotl gives them, and write the text of the models' own: chatml (OpenAI's markup),
llama3 and llama4 (Meta), gemma and gemma3 (Google), mistral_… (Mistral AI), qwen_25 and qwen3 (Alibaba), phi_… (Microsoft), cohere,
deepseek_… , exaone (LG), falcon_h1 (TII), metharme (PygmalionAI), alpaca (Stanford).
"""

from dataclasses import dataclass
from pathlib import Path

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.datasets import Dataset
from axolotl_core.params.paths import path_in

FOLDER = Path(__file__).parent / "chat_templates"
OWN, FALLBACK, JINJA = "tokenizer_default", "tokenizer_default_fallback_", "jinja"
SAME = {"nemotron": "chatml", "nemotron_h": "chatml", "aya": "cohere", "gemma3n": "gemma3", "qwen3_5": "qwen3"}
"""Names in Axolotl of templates that write the same text as another one."""


@dataclass(frozen=True)
class Given:
    """source: Jinja text, None for the tokenizer's own; fallback: what is taken where the tokenizer has none; shown: for the user."""

    source: str | None = None
    fallback: str | None = None
    shown: str = "the tokenizer's own"


def names() -> list[str]:
    """Of the templates that come with axolotl."""
    return sorted([*(file.stem for file in FOLDER.glob("*.jinja")), *SAME])


def shipped(name: str) -> str:
    """The source of one of them."""
    return (FOLDER / f"{SAME.get(name, name)}.jinja").read_text(encoding="utf-8")


def jinja_file(data: Dataset, root: Path) -> Path | None:
    """The user's file that chat_template or chat_template_jinja names, where there is one."""
    for text in (data.chat_template_jinja, data.chat_template):
        if text and "\n" not in text and "{" not in text and (file := path_in(root, text)).is_file():
            return file
    return None


def template_of(data: Dataset, root: Path) -> Given:
    """What params.yaml says. Raises ParamsError for a name that is neither a file nor a template that comes with axolotl."""
    if file := jinja_file(data, root):
        return Given(file.read_text(encoding="utf-8-sig"), shown=str(file))
    if data.chat_template_jinja is not None:
        if "{" not in data.chat_template_jinja:
            raise ParamsError(f"chat_template_jinja: no such file: {data.chat_template_jinja}; wanted Jinja text or a Jinja file")
        return Given(data.chat_template_jinja, shown="chat_template_jinja")
    name = data.chat_template
    if name in (None, OWN):
        return Given()
    assert name is not None
    known = name.removeprefix(FALLBACK)
    if known not in names():
        near = nearest(known, [OWN, *names()])
        wanted = f"wanted a Jinja file, {OWN} (the default), or one of {', '.join(names())}"
        raise ParamsError(f"chat_template: no such file: {name}; {wanted}{near}")
    return Given(fallback=shipped(known)) if known != name else Given(shipped(name), shown=name)
