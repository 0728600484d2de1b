"""`python -m axolotl_core.cli.train config.yml --prepare_ds_only`, as Axolotl was started: which command does it now."""

import sys

from axolotl_core import world
from axolotl_core.terminal import warn

INSTEAD = {
    "prepare_ds_only": "preprocess",
    "inference": "inference",
    "merge_lora": "merge",
    "shard": "export",
    "debug": "view tokens",
}
"""Old flag → the command that does what it asked for."""
DROPPED = ("debug_text_only", "debug_num_examples", "cli_args", "no_iterable", "iterable", "prompter", "gradio")


def answer(command: str) -> int:
    """Print the command to run in the place of `python -m axolotl_core.cli.COMMAND …`; returns the exit status."""
    kept = []
    for word in sys.argv[1:]:
        flag = word.lstrip("-").partition("=")[0].replace("-", "_")
        if word.startswith("-") and flag in INSTEAD:
            command = INSTEAD[flag]
        elif not (word.startswith("-") and flag in DROPPED):
            kept.append(word)
    file = "--params " if command.startswith("view") and kept and not kept[0].startswith("-") else ""
    if world.rank() == 0:
        warn(f"axolotl: run `axolotl {command} {file}{' '.join(kept)}`".replace(" `", " `").rstrip())
    return 2
