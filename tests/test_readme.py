"""README.md tells the truth: its tables are generated, its commands exist."""

import re

from axolotl_core.cli.main import COMMANDS
from tests.conftest import REPOSITORY
from tests.readme_tables import README, filled


def test_the_tables_are_those_of_the_code():
    text = README.read_text(encoding="utf-8")
    assert text == filled(text), "run `python -m tests.readme_tables`"


def test_every_command_named_exists_and_every_command_is_named_somewhere():
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"axolotl ([a-z]+)\b(?! \|)", re.sub(r"(git clone|cd) [^\n]*", "", text))) & {*COMMANDS, "stage"}
    assert named >= {"init", "check", "run", "stage", "inference", "import", "upgrade"}


def test_make_targets_named_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|    )make ([a-z]+)", README.read_text(encoding="utf-8"))):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
