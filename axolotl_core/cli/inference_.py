"""axolotl inference"""

import sys
from pathlib import Path
from typing import Any

import click

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.difference import differences
from axolotl_core.cli.project import open_project
from axolotl_core.cli.words import WithOptions, config_and_overrides
from axolotl_core.params.params import Params
from axolotl_core.params.section import show
from axolotl_core.release.chat import READS, Chat, Sampling, open_chat
from axolotl_core.stages import keys
from axolotl_core.stages.graph import chosen
from axolotl_core.stages.job import Project
from axolotl_core.stages.survey import made_by
from axolotl_core.terminal import say, warn


@click.command("inference", cls=WithOptions)
@click.option("--params", "-p", type=click.Path(path_type=Path), help="The params file; the same as CONFIG.")
@click.option(
    "--model", "which", type=click.Choice(["adapter", "merged", "base"]), default="adapter", show_default=True, help="Which model answers."
)
@click.option("--system", help="A system message; unset: the chat template's own.")
@click.option("--raw", is_flag=True, help="Send the prompt as it is, without the chat template.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=512, show_default=True, help="Length of a reply, in tokens.")
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 takes the likeliest token each time.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True, help="Nucleus, above temperature 0.")
@click.option("--repetition-penalty", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Above 1 repeats less.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sampling.")
def command(words: tuple[str, ...], params: Path | None, which: str, system: str | None, raw: bool, **sampling: Any) -> None:
    """Chat with the trained model.

    It is prompted with the chat template that its training data was written by, else with the tokenizer's own. Replies
    stream as they are made. A prompt on standard input is answered and that is all, with --raw to the byte; in a terminal it is a
    chat, whose prompts may have several lines.

    \b
    axolotl inference
    axolotl inference config.yml --model merged
    echo "Why is the water cloudy?" | axolotl inference --model merged
    """
    project, config = open_project(*config_and_overrides([*([str(params)] if params else []), *words]))
    shared: dict[str, Any] = {"quantise": config.model, "datasets": config.datasets, "system": system, "raw": raw, "tell": warn}
    with manifest.opened(project.artifacts, READS[which], project.stats.digest) as artifacts:
        chat = open_chat(project.root, artifacts, project.stats, which, config.machine, Sampling(**sampling), **shared)
        for note in _changed(project, config):
            warn(f"{params or 'params.yaml'} has changed since training, and the model is as it was trained: {note}")
        if not sys.stdin.isatty():
            prompt = sys.stdin.buffer.read().decode("utf-8") if raw else sys.stdin.read().strip("\n")
            if prompt.strip():
                _stream(chat, prompt)
            return
        warn(f"{which} of {config.model.base_model}; a blank line or Ctrl-D sends, {COMMANDS}")
        while (prompt := _typed()) is not None:
            if not _obeyed(chat, prompt):
                _stream(chat, prompt)


def _changed(project: Project, params: Params) -> list[str]:
    """What of params.yaml is not as it was when the adapter in artifacts/ was trained."""
    (train,) = chosen("train", params.datasets)
    made = made_by(project, train)
    found = differences(keys.recorded_options(made.record["params"], train), keys.options(params, train)) if made else []
    return [f"{name} {show(old)} → {show(new)}" for name, old, new in found]


COMMANDS = "/reset forgets what was said, /system TEXT sets the system message, /exit ends"


def _typed() -> str | None:
    """What is typed up to a blank line or Ctrl-D, as it is; a command is one line. None at the end of the chat."""
    lines: list[str] = []
    while True:
        try:
            line = input("> " if not lines else "… ")
        except EOFError:
            warn()
            return "\n".join(lines) if lines else None
        if not lines and line.strip() == "/exit":
            return None
        if not lines and line.startswith("/"):
            return line
        if not line.strip() and lines:
            return "\n".join(lines)
        if line.strip():
            lines.append(line)


def _obeyed(chat: Chat, prompt: str) -> bool:
    """Whether it was a command, which is carried out."""
    name, _, text = prompt.partition(" ")
    if name == "/reset":
        chat.reset()
    elif name == "/system":
        chat.reset(text.strip())
    elif name.startswith("/") and "\n" not in prompt:
        warn(f"no command is called {name}: {COMMANDS}")
    else:
        return False
    return True


def _stream(chat: Chat, prompt: str) -> None:
    for piece in chat.say(prompt):
        say(piece, end="")
    say()
