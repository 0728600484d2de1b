"""The params files that come with axolotl, and params files written anew."""

import shutil
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.document import Comment, Document, Where
from axolotl_core.params.params import SECTIONS
from axolotl_core.terminal import say

DEFAULT = "smollm2-lora"


def shipped() -> dict[str, Path]:
    """Name → file of pipelines/."""
    folder = Path(str(resources.files("axolotl_core.pipelines").joinpath(""))).resolve()
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def template(name: str) -> Path:
    """The file of a shipped pipeline. Raises ParamsError with the nearest name."""
    found = shipped()
    if name not in found:
        raise ParamsError(f"no pipeline is called '{name}'{nearest(name, found)}; there are {', '.join(found)}")
    return found[name]


def page() -> Path:
    """The page that `dvc plots show` fills, with vega in it: DVC's own loads that from a CDN."""
    return template(DEFAULT).parent / "plots" / "page.html"


def keep(target: Path) -> None:
    """Copy a params file that is about to be replaced to another name, unless it is a pipeline that is there anyway."""
    known = {path.read_text(encoding="utf-8") for path in (*shipped().values(), *Path("pipelines").glob("*.yaml"))}
    if target.read_text(encoding="utf-8", errors="replace") in known:
        return
    n = 1
    while (kept := target.with_name(f"{target.stem}.kept-{n}{target.suffix}")).exists():
        n += 1
    shutil.copyfile(target, kept)
    say(f"kept your {target} as {kept}")


def starter_data() -> Path:
    """The small dataset of the default pipeline: beside the pipelines in an installed package, data/ in a checkout."""
    folder = template(DEFAULT).parent
    return folder / "data" if (folder / "data").is_dir() else folder.parent / "data"


def written(document: Document) -> str:
    """A sectioned params file, with the document's comments and its spelling of numbers.

    Every section is there, since DVC wants those that dvc.yaml names.
    """
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    text = StringIO()
    for name in SECTIONS:
        section = document.values.get(name) or {}
        found = _commented(section, (name,), document, 2) if isinstance(section, dict) else section
        whole = CommentedMap({name: found})
        if above := document.comments.get((name,), Comment()).above:
            whole.yaml_set_comment_before_after_key(name, before="\n".join(above))
        yaml.dump(whole, text)
        text.write("\n")
    return text.getvalue().rstrip() + "\n"


def _commented(node: Any, where: Where, document: Document, indent: int) -> Any:
    """Plain values as ruamel's, with comments and spellings."""
    if isinstance(node, dict):
        made = CommentedMap({key: _commented(value, (*where, key), document, indent + 2) for key, value in node.items()})
    elif isinstance(node, list):
        made = CommentedSeq([_commented(value, (*where, i), document, indent + 2) for i, value in enumerate(node)])
    else:
        spelled = document.spelled.get(where)
        return spelled if spelled is not None and spelled == node else node
    for key in node if isinstance(node, dict) else range(len(node)):
        comment = document.comments.get((*where, key), Comment())
        if comment.above:
            made.yaml_set_comment_before_after_key(key, before="\n".join(comment.above), indent=indent)
        if comment.beside:
            made.yaml_add_eol_comment(comment.beside, key)
    return made if node else type(node)()
