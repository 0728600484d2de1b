"""The house stands as CONTRIBUTING.md draws it: floors, no cycles, one graph, quick help."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from axolotl_core.cli.project import graph_of
from axolotl_core.params.load import load
from tests.conftest import REPOSITORY

FLOORS = [
    {"errors", "garbage", "labels", "lookup", "progress", "quiet", "terminal", "world"},
    {"params", "artifacts"},
    {"sources", "packing", "prompts", "optim", "attention"},
    {"formats"},
    {"tokens"},
    {"batches"},
    {"models", "adapters", "kernels"},
    {"objectives", "distributed", "tracking", "checkpoints"},
    {"evaluation"},
    {"training", "release"},
    {"stages"},
    {"report"},
    {"cli"},
]
"""A room imports from its own floor and from those above in this list."""


def modules() -> dict[str, Path]:
    files = [*(REPOSITORY / "axolotl_core").rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")]
    return {_dotted(f).removesuffix(".__init__"): f for f in files}


def _dotted(file: Path) -> str:
    """stages/ is imported through the link axolotl_core/stages, so that it is in the way of no folder of a user's."""
    name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
    return name if name.startswith("axolotl_core") else f"axolotl_core.{name}"


def imports(file: Path, known: Collection[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(known)


def floor(module: str) -> int:
    room = module.split(".")[1]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def rooms_and_files() -> dict[str, Path]:
    return {m: f for m, f in modules().items() if f.name != "__init__.py"}


def test_every_room_has_a_floor():
    assert all(floor(module) >= 0 for module in rooms_and_files())


def test_imports_go_down_only():
    files = modules()
    broken = [
        f"{module} imports {used}"
        for module, file in rooms_and_files().items()
        for used in imports(file, files.keys())
        if files[used].name != "__init__.py" and floor(used) > floor(module)
    ]
    assert broken == []


def test_no_import_cycle():
    known = set(modules())
    graph = {module: imports(file, known) - {module} for module, file in modules().items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        if module not in done:
            for used in graph[module]:
                visit(used, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_init_files_are_empty():
    assert [str(f) for f in modules().values() if f.name == "__init__.py" and f.read_text(encoding="utf-8").strip()] == []


def test_only_the_cli_knows_click_and_only_the_cli_calls_dvc():
    outside = [f for m, f in rooms_and_files().items() if ".cli." not in m]
    assert [str(f) for f in outside if "import click" in f.read_text(encoding="utf-8")] == []
    assert [str(f) for f in outside if '"dvc"' in f.read_text(encoding="utf-8")] == []


def test_no_broad_except():
    """But where another library reads a file that may be anything."""
    for module, file in rooms_and_files().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, file
                broad = getattr(node.type, "id", "") in ("Exception", "BaseException")
                assert not broad or module == "axolotl_core.errors", file


def test_python_is_started_without_the_current_folder_in_its_path():
    """Or a `json.py` or `datasets.py` of the user's would run in the place of a library."""
    for module, file in rooms_and_files().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            words = [ast.unparse(item) for item in node.elts] if isinstance(node, ast.List) else []
            if "'-m'" in words and "'git'" not in words:
                assert "'-P'" in words, module


def calls(file: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def test_all_that_is_printed_goes_through_terminal():
    """Which shows control characters of rows, names and replies escaped."""
    for module, file in rooms_and_files().items():
        if module != "axolotl_core.terminal":
            assert {ast.unparse(call.func) for call in calls(file)}.isdisjoint({"print", "click.echo", "sys.stdout.write"}), module


def test_no_code_of_a_model_repository_is_run():
    """Where nothing is said transformers asks on the terminal, and runs it on a y."""
    for module, file in rooms_and_files().items():
        for call in calls(file):
            name = ast.unparse(call.func)
            if name.endswith((".from_pretrained", ".from_config")) and not name.startswith("Peft"):
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert said.get("trust_remote_code") == "False", f"{module}: {name}"


def test_every_package_that_is_pinned_is_for_every_python_that_pyproject_allows():
    """Debian's 3.11.2 among them."""
    least = SpecifierSet(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"])
    assert least == SpecifierSet(">=3.11")
    pinned = [line.split("==")[0] for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line]
    needs = {}
    for name in pinned:
        try:
            needs[name] = metadata(name)["Requires-Python"] or ""
        except PackageNotFoundError:
            continue  # of an extra that is not installed here
    assert len(needs) > 100
    assert {name: need for name, need in needs.items() if not SpecifierSet(need).contains("3.11.0")} == {}


def test_dvc_yaml_equals_the_stage_table():
    assert (REPOSITORY / "dvc.yaml").read_text(encoding="utf-8") == graph_of(load(REPOSITORY / "params.yaml"), REPOSITORY)


def test_every_public_thing_has_a_docstring():
    missing = []
    for module, file in rooms_and_files().items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            missing.append(module)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{module}.{node.name}")
    assert missing == []


@pytest.mark.parametrize("heavy", ["torch", "transformers", "datasets", "dvc"])
def test_commands_load_nothing_heavy_before_there_is_work(heavy: str):
    code = (
        "import sys; import axolotl_core.cli.main, axolotl_core.cli.stage_, axolotl_core.cli.check_, axolotl_core.cli.run_; "
        f"sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_no_command_module():
    code = (
        "import sys; from axolotl_core.cli.main import main; main(['--help'], standalone_mode=False); sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_an_installed_package_is_in_the_way_of_no_folder_of_a_users():
    """stages/ and pipelines/ lie at the top of the repository and inside the package, through links that a wheel follows."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["axolotl_core"]
    for name in ("stages", "pipelines"):
        assert (REPOSITORY / "axolotl_core" / name).readlink() == Path("..") / name
    imported = [
        f for f in modules().values() if re.search(r"^\s*(from|import) (stages|pipelines)\b", f.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert imported == []


def test_a_stages_folder_of_a_users_is_not_imported(project: Path, axolotl):
    for name in ("stages", "pipelines"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text("raise SystemExit('not ours')")
    assert "params.yaml: no problems found" in axolotl("check", cwd=project).stdout
    axolotl("stage", "tokenize@sums", cwd=project)
