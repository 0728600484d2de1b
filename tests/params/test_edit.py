"""Editing one option of a YAML text: one line changes."""

import pytest

from axolotl_core.errors import ParamsError
from axolotl_core.params.document import parsed
from axolotl_core.params.edit import edited, with_sections

TEXT = """\
# my project
model:
  base_model: "x"   # quoted
training:  # how
  learning_rate: 2e-5 # tried 1e-5

  seed: 0x10
adapter: {adapter: lora, lora_r: 8}
tokenizer: {}
packing:
datasets:
  a:
    path: a.jsonl
    data_files:
      - one
      - two # the second
# the end
"""


@pytest.mark.parametrize(
    ("where", "value", "old", "new"),
    [
        ("training.learning_rate", "1e-4", "2e-5 #", "1e-4 #"),
        ("training.optimizer", "sgd", "  seed: 0x10\n", "  seed: 0x10\n  optimizer: sgd\n"),
        ("adapter.lora_r", "16", "lora_r: 8}", "lora_r: 16}"),
        ("adapter.lora_alpha", "32", "lora_r: 8}", "lora_r: 8, lora_alpha: 32}"),
        ("tokenizer.tokens", "[a, b]", "tokenizer: {}", "tokenizer:\n  tokens: [a, b]"),
        ("packing.sequence_len", "64", "packing:\n", "packing:\n  sequence_len: 64\n"),
        ("datasets.a.data_files", "[x]", "data_files:\n      - one\n      - two # the second\n", "data_files: [x]\n"),
        ("datasets.a.type", "completion", "# the second\n", "# the second\n    type: completion\n"),
        ("model.base_model", "'a #b'", '"x"', "'a #b'"),
        ("machine.micro_batch_size", "2", "- two # the second\n", "- two # the second\nmachine:\n  micro_batch_size: 2\n"),
    ],
)
def test_only_the_place_of_the_option_changes(where: str, value: str, old: str, new: str):
    assert edited(TEXT, tuple(where.split(".")), value) == TEXT.replace(old, new)


def test_what_cannot_be_changed_alone_is_told():
    with pytest.raises(ParamsError, match=r"c\.b cannot be changed in this file \(an anchor or an alias\?\)"):
        edited("a: &x {b: 1}\nc: *x\n", ("c", "b"), "2")


@pytest.mark.parametrize(
    ("text", "value", "wanted"),
    [
        ("a: {b: 1}\n", "*.jsonl", "*.jsonl"),
        ("a: {b: 1}\n", "[INST] {x} [/INST]", "[INST] {x} [/INST]"),
        ("a:\n  c: |\n    text\n  d: 1\n", "x", "x"),
        ("a: ~\n", "2", 2),
        ("a:\n  c:\n", "2", 2),
        ('{"a": {"c": 1}}\n', "2", 2),
    ],
)
def test_odd_values_and_shapes_are_written_right(text: str, value: str, wanted: object):
    assert parsed(edited(text, ("a", "b"), value), "f").values["a"]["b"] == wanted


def test_sections_that_are_missing_are_added_at_the_end():
    assert with_sections("model: {}\n", ["model", "export"]) == "model: {}\n\nexport: {}\n"
    assert with_sections("model: {}\n", ["model"]) == "model: {}\n"
    for text in ('{"model": {}}\n', "model: {}\n...\n"):
        assert parsed(with_sections(text, ["model", "export"]), "f").values == {"model": {}, "export": {}}
