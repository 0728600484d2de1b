"""Paths in params.yaml: relative ones count from its folder, `~` is the user's own."""

from pathlib import Path


def path_in(root: Path, text: str) -> Path:
    """`data/x` → root/data/x, `~/x` → /home/me/x, `/x` → /x."""
    return root / Path(text).expanduser()
