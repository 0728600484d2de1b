"""The same file in two places, on the disk once."""

import os
import shutil
from pathlib import Path


def link(source: Path, target: Path) -> None:
    """A hard link to the file that `source` is or points to; a copy where the disk has none, or lies elsewhere.

    The folder of `target` is made where there is none. Artifacts are replaced whole, no file is written to in place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
