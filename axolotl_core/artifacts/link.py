"""The same file in two artifacts, on the disk once."""

import os
import shutil
from pathlib import Path


def link(source: Path, target: Path) -> None:
    """A hard link; a copy where the disk has none, or lies elsewhere. Artifacts are replaced whole, no file is written to in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
