"""`axolotl train CONFIG` and its like: the stages under the names that people type."""

from pathlib import Path
from typing import Any

import click

from axolotl_core.cli import stage_
from axolotl_core.cli.words import WithOptions, config_and_overrides

STAGES = {
    "fetch": ("fetch", "Bring rows, tokenizer and base model here."),
    "preprocess": ("pack", "Prepare the data, and nothing that needs a GPU."),
    "train": ("train", "Train, on data that is prepared if it is not yet."),
    "evaluate": ("evaluate", "Measure the model before and after training."),
    "merge": ("merge", "One model out of base and adapter."),
    "merge-lora": ("merge", "The same as merge."),
    "export": ("export", "The merged model with its tokenizer and a card."),
}
"""Command → (stage, first line of its help)."""


def command_of(name: str) -> click.Command:
    """`axolotl NAME [CONFIG] [--OPTION VALUE]...`, which brings its stage up to date and all that it reads."""
    stage, message = STAGES[name]

    @click.command(name, cls=WithOptions, help=_help(name, stage, message))
    @click.option("--force", is_flag=True, help="Run it even if it is up to date.")
    @click.option("--only", is_flag=True, help="Just this stage; what it reads must be there.")
    @click.option("overrides", "--set", multiple=True, metavar="OPTION=VALUE", help="The same as --OPTION VALUE.")
    @click.option("--params", "-p", type=click.Path(path_type=Path), help="The params file; the same as CONFIG.")
    def command(words: tuple[str, ...], params: Path | None, overrides: tuple[str, ...], **settings: Any) -> None:
        file, given = config_and_overrides([*([str(params)] if params else []), *words])
        stage_.bring(stage, file, (*given, *overrides), **settings)

    return command


def _help(name: str, stage: str, message: str) -> str:
    return f"""{message}

    CONFIG is a params.yaml or a flat Axolotl YAML; unset: params.yaml. It is `axolotl stage {stage}`: what is up to date is not run again.
    Every option of CONFIG can be given as a flag, with its section or without.

    \b
    axolotl {name}
    axolotl {name} config.yml --learning-rate 1e-4 adapter.lora_r=8
    """
