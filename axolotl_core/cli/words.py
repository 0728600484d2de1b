"""`CONFIG --learning-rate 1e-4 adapter.lora_r=8`: a params file and options of it, as people type them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from axolotl_core.cli.project import PARAMS
from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.docs import docstrings
from axolotl_core.params.flat.options import RENAMED
from axolotl_core.params.flat.translate import what_became_of
from axolotl_core.params.params import SECTIONS, section_of

ASSIGNED = re.compile(r"[A-Za-z_][\w.-]*=.*", re.DOTALL)


class WithOptions(click.Command):
    """A command that takes every option of params.yaml as a flag, listed in its help by section."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["context_settings"] = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}
        super().__init__(*args, **settings)
        self.params.append(click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG] [--OPTION VALUE]..."))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        for name, kind in SECTIONS.items():
            if name != "datasets":
                with formatter.section(f"Options of the section {name}"):
                    docs = {option: re.split(r"(?<=[a-z\)\]])[.;] ", text)[0] for option, text in docstrings(kind).items()}
                    formatter.write_dl([(f"--{option.replace('_', '-')}", text.rstrip(".")) for option, text in docs.items()])


def config_and_overrides(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The params file, params.yaml unless one is named, and `section.option=value` for each option.

    Raises ParamsError for a second file and for an option that there is not.
    """
    left, files, overrides = list(words), [], []
    while left:
        word = left.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            place, on = _place(name)
            if not equals:
                value = _value_after(place, left, on)
            overrides.append(f"{place}={value}")
        elif ASSIGNED.fullmatch(word) and not Path(word).exists():
            name, _, value = word.partition("=")
            overrides.append(f"{_place(name)[0]}={value}")
        else:
            files.append(word)
    if len(files) > 1:
        raise ParamsError(f"{' and '.join(files)} are given, wanted one params file; an option is --name value or section.name=value")
    return Path(files[0] if files else PARAMS), overrides


def _value_after(place: str, left: list[str], on: bool) -> str:
    """The next word, or true for a switch that stands alone (false for `--no-…`)."""
    switch = _is_switch(place)
    if left and not left[0].startswith("--") and _is_value(left[0], switch):
        word = left.pop(0)
        return word.lower() if switch and word.lower() in ("true", "false") else word
    if switch:
        return "true" if on else "false"
    raise ParamsError(f"--{place.rpartition('.')[2].replace('_', '-')} has no value, wanted one behind it")


def _is_value(word: str, switch: str | None) -> bool:
    """Whether the word behind an option is its value; a switch may stand alone in front of the params file."""
    if switch is None or word.lower() in ("true", "false", "null"):
        return True
    return switch == "or more" and Path(word).suffix not in (".yml", ".yaml") and not ASSIGNED.fullmatch(word)


def _is_switch(place: str) -> str | None:
    """`only` for an option that is true or false, `or more` for one that takes words too (`bf16: auto`), None for any other."""
    section, _, option = place.partition(".")
    kind = SECTIONS.get(section)
    shown = str(kind.model_fields[option].annotation) if kind is not None and option in kind.model_fields else ""
    if "bool" not in shown:
        return None
    return "or more" if re.search("Literal|str|list", shown) else "only"


def _place(name: str) -> tuple[str, bool]:
    """`learning-rate` or `training.learning_rate` → (`training.learning_rate`, True); `no-tf32` → (`machine.tf32`, False)."""
    plain = name.replace("-", "_")
    head, _, option = plain.rpartition(".")
    for candidate, on in ((option, True), (option.removeprefix("no_"), False)):
        known = RENAMED.get(candidate, candidate)
        if not head and known in section_of() and (on or candidate != option):
            return f"{section_of()[known]}.{known}", on
    if head and plain.partition(".")[0] in SECTIONS:
        return plain, True  # load() says what is wrong with it
    hint = what_became_of(option) or nearest(option, section_of())
    raise ParamsError(f"--{name}: no option is called '{option}'{hint}; `--help` lists them")
