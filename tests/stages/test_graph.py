"""The stage table: names, what reads what, and DVC's view of it."""

import pytest
from ruamel.yaml import YAML

from axolotl_core.errors import ParamsError
from axolotl_core.params.params import SECTIONS
from axolotl_core.stages.graph import STAGES, chosen, dvc_yaml, upstream

DATA = ("b", "a")


def names(steps) -> list[str]:
    return [step.name for step in steps]


def test_a_name_means_a_stage_one_of_its_data_sets_or_a_group():
    assert names(chosen("pack", DATA)) == ["pack"]
    assert names(chosen("tokenize", DATA)) == ["tokenize@a", "tokenize@b"]
    assert names(chosen("tokenize@b", DATA)) == ["tokenize@b"]
    assert names(chosen("fetch", DATA)) == ["fetch@a", "fetch@b", "fetch-tokenizer", "fetch-model"]


def test_a_wrong_name_is_told_with_the_nearest():
    with pytest.raises(ParamsError, match=r"no stage is called 'tokenise'; did you mean 'tokenize'\?; there are fetch@a, fetch@b"):
        chosen("tokenise", DATA)


def test_preparing_data_never_needs_the_weights():
    assert names(upstream(chosen("pack", DATA), DATA)) == ["fetch@a", "fetch@b", "fetch-tokenizer", "tokenize@a", "tokenize@b", "pack"]


def test_export_needs_all_but_evaluate():
    assert set(names(upstream(chosen("export", DATA), DATA))) == {
        "fetch@a", "fetch@b", "fetch-tokenizer", "fetch-model", "tokenize@a", "tokenize@b", "pack", "train", "merge", "export",
    }  # fmt: skip


def test_machine_and_tracking_are_in_no_stage():
    assert not {"machine", "tracking"} & {section for stage in STAGES for section in stage.sections}
    assert {section for stage in STAGES for section in stage.sections} == set(SECTIONS) - {"machine", "tracking"}


def test_dvc_yaml_never_interpolates_more_than_a_name_into_a_command():
    graph = YAML(typ="safe").load(dvc_yaml(DATA))
    for stage in graph["stages"].values():
        command = stage.get("do", stage)["cmd"]
        assert command.replace("@${key}", "").isascii()
        assert "${" not in command.replace("@${key}", "")
