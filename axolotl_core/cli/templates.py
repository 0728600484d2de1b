"""The params files that come with axolotl, and params files written anew."""

from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.whole import SECTIONS

DEFAULT = "smollm2-lora"


def shipped() -> dict[str, Path]:
    """Name → file of pipelines/."""
    folder = Path(str(resources.files("pipelines").joinpath("")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def template(name: str) -> Path:
    """The file of a shipped pipeline. Raises ParamsError with the nearest name."""
    found = shipped()
    if name not in found:
        raise ParamsError(f"no pipeline is called '{name}'{nearest(name, found)}; there are {', '.join(found)}")
    return found[name]


def starter_data() -> Path:
    """The small data set of the default pipeline: beside the pipelines in an installed package, data/ in a checkout."""
    folder = template(DEFAULT).parent
    return folder / "data" if (folder / "data").is_dir() else folder.parent / "data"


def written(values: dict[str, Any]) -> str:
    """A sectioned params file; every section is there, since DVC wants those that dvc.yaml names."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    text = StringIO()
    for name in SECTIONS:
        yaml.dump({name: values.get(name) or {}}, text)
        text.write("\n")
    return text.getvalue().rstrip() + "\n"
