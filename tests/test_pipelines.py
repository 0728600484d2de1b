"""Every shipped params file is right, and the active one is the default."""

import pytest

from axolotl_core.cli.project import open_project
from axolotl_core.cli.templates import DEFAULT, shipped, starter_data
from axolotl_core.params.document import read
from axolotl_core.params.params import SECTIONS
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_pipeline_loads_and_has_every_section(name: str):
    open_project(shipped()[name])
    assert list(read(shipped()[name]).values) == list(SECTIONS)


def test_the_default_pipeline_is_the_active_one():
    assert (REPOSITORY / "params.yaml").read_text(encoding="utf-8") == shipped()[DEFAULT].read_text(encoding="utf-8")


def test_the_starter_data_is_what_its_readme_says():
    lines = (starter_data() / "axolotl_faq.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 110
    assert "| 110 |" in (starter_data() / "README.md").read_text(encoding="utf-8")
