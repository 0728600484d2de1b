"""Variables by which accelerate would change a run. params.yaml says all of it, so they are removed before accelerate reads them.

`accelerate launch` exports its user's configuration in this way: precision, accumulation, plugins and their settings, which would give
another result under the same key.
"""

import os

from axolotl_core import world

PREFIXES = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
NAMES = ("MIXED_PRECISION", "FORK_LAUNCHED")
OF_PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SETTINGS = ("MIXED_PRECISION", "GRADIENT_ACCUMULATION_STEPS", "GRADIENT_CLIPPING", "USE_FSDP", "USE_DEEPSPEED")
"""What somebody may have meant: accelerate exports the others always."""
NOTHING = ("no", "false", "0", "1", "none", "")


def clear() -> list[str]:
    """Remove them from this process's environment; a sentence where one of them asked for something.

    Where a scheduler describes a single process (RANK=0 WORLD_SIZE=1), there is no group of processes to join either.
    """
    removed = {name: os.environ.pop(name) for name in list(os.environ) if name in NAMES or name.startswith(PREFIXES)}
    for name in () if world.launched() else OF_PROCESSES:
        os.environ.pop(name, None)
    meant = sorted(name for name, value in removed.items() if name.removeprefix("ACCELERATE_") in SETTINGS and value.lower() not in NOTHING)
    return [f"{', '.join(meant)} of the environment not used: params.yaml decides"] if meant else []
