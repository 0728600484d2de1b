"""`axolotl`: the one place that knows click. Commands are imported when they are called, so that --help is quick."""

import errno
import importlib
import os
import sys

import click

from axolotl_core import (
    quiet,  # noqa: F401
    world,
)
from axolotl_core.errors import FULL, AxolotlError, MachineError
from axolotl_core.terminal import warn

COMMANDS = {
    "cache": "Show the caches and the finished runs in .axolotl, or trim them.",
    "check": "Check params.yaml, its data and its base model, and say what a run would do.",
    "evaluate": "Measure the model before and after training.",
    "export": "The merged model with its tokenizer and a card.",
    "fetch": "Bring rows, tokenizer and base model here.",
    "import": "Turn a flat Axolotl YAML, of 2023 or of today, into a params.yaml.",
    "inference": "Chat with the trained model.",
    "init": "Start a project of your own.",
    "merge": "One model out of base and adapter.",
    "merge-lora": "The same as merge.",
    "plan": "Show what a run would do with every stage, and why.",
    "preprocess": "Prepare the data, and nothing that needs a GPU.",
    "pull": "Bring results of the team here, and check that they are complete.",
    "push": "Send results to the team's remote, and see that they are there.",
    "report": "Show what training changed: losses and replies.",
    "run": "Make a params file the active one and bring everything up to date.",
    "stage": "Bring one stage up to date, and all it reads, without DVC.",
    "train": "Train, on data that is prepared if it is not yet.",
    "upgrade": "Rewrite dvc.yaml for the installed version.",
    "view": "Look at what will be trained on.",
    "why": "Say whether a stage is up to date, and what has changed where it is not.",
}
"""Name → first line of its help (a test holds them equal); its module is cli/<name>_.py, or cli/named.py for a stage."""
OF_THE_MACHINE = FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE}
NAMED = ("evaluate", "export", "fetch", "merge", "merge-lora", "preprocess", "train")


class Commands(click.Group):
    """Lists commands without importing them, and prints a user's mistake without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in NAMED:
            named: click.Command = importlib.import_module("axolotl_core.cli.named").command_of(cmd_name)
            return named
        command: click.Command = importlib.import_module(f"axolotl_core.cli.{cmd_name}_").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise _option_of_params(error) from None
        except AxolotlError as error:
            if world.rank() == 0:
                warn(f"axolotl: {error}")
            elif isinstance(error, MachineError):  # the others fail alike, a GPU may fail alone
                warn(f"axolotl, rank {world.rank()}: {error}")
            ctx.exit(error.exit_status)
        except OSError as error:  # a full or closed disk, wherever it is met; anything else is our own fault
            if error.errno not in OF_THE_MACHINE:
                raise
            warn(f"axolotl: {os.fsdecode(error.filename or 'this machine')}: {error.strerror}; nothing was replaced by half, run it again")
            ctx.exit(MachineError.exit_status)


def _option_of_params(error: click.NoSuchOption) -> click.UsageError:
    """An option of params.yaml that was given as one of the command line: how it is set there."""
    from axolotl_core.params.params import section_of  # imports pydantic

    name = error.option_name.lstrip("-").replace("-", "_").rpartition(".")[2]
    if name not in section_of():
        return error
    given = next((word.partition("=")[2] for word in sys.argv if word.startswith(f"{error.option_name}=")), "") or "VALUE"
    return click.UsageError(
        f"{error.option_name} is an option of params.yaml, which the command line sets with --set {section_of()[name]}.{name}={given}",
        error.ctx,
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="axolotl")
def main() -> None:
    """Fine-tune language models from one YAML file, as a pipeline of cached stages.

    \b
    axolotl init my-project          a project with a params.yaml that runs
    axolotl check                    is params.yaml right?
    dvc repro                        run what is out of date
    axolotl train config.yml         the same without DVC, up to one stage, of any Axolotl YAML
    axolotl inference                chat with the result
    """
