"""The flat Axolotl YAML: nothing of it is silently ignored."""

import re
from pathlib import Path

import pytest

from axolotl_core.errors import ParamsError
from axolotl_core.params.flat.options import LEFT_OUT, NOT_NEEDED, RENAMED, WITHOUT
from axolotl_core.params.flat.translate import HANDLERS, known
from axolotl_core.params.flat.values import SAME_OPTIMIZERS
from axolotl_core.params.load import load
from axolotl_core.params.section import Built
from axolotl_core.params.whole import SECTIONS, section_of

SEED_OPTIONS = (Path(__file__).parent / "seed_options.txt").read_text(encoding="utf-8").split()
"""Every top-level option of Axolotl's README and code in October 2023."""
FLAT = """\
base_model: NousResearch/Llama-2-7b-hf
is_llama_derived_model: true
load_in_8bit: false
datasets:
  - path: data/a.jsonl
    type: alpaca
  - path: data/a.jsonl
    type: completion
  - path: org/b
    name: [en, de]
    type: sharegpt
val_set_size: 0.01
output_dir: ./out
sequence_len: 4096
adapter: lora
lora_r: 32
lora_target_modules:
wandb_project:
optimizer: adamw_hf
learning_rate: 0.0002
bf16: true
gradient_accumulation_steps: 4
micro_batch_size: 2
special_tokens:
  pad_token: "</s>"
"""


def flat(tmp_path: Path, text: str = FLAT) -> Path:
    path = tmp_path / "old.yml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("option", SEED_OPTIONS)
def test_every_option_of_the_seed_is_known(option: str):
    assert known(option)


def test_an_option_is_in_one_place_only():
    names = [o for name, kind in SECTIONS.items() if name != "datasets" for o in kind.model_fields]
    assert len(names) == len(set(names))
    assert not set(names) & set(RENAMED)
    assert set(RENAMED.values()) <= set(names)
    unbuilt = {
        o for kind in SECTIONS.values() for o, field in kind.model_fields.items() if any(isinstance(m, Built) for m in field.metadata)
    }
    assert set(names) & set(NOT_NEEDED) <= unbuilt | set(HANDLERS)
    for table in (WITHOUT, LEFT_OUT):
        assert {name for name in names for pattern in table if re.fullmatch(pattern, name)} <= unbuilt | set(HANDLERS)


def test_a_flat_file_is_read_as_it_is(tmp_path: Path):
    params = load(flat(tmp_path))
    assert params.model.base_model == "NousResearch/Llama-2-7b-hf"
    assert (params.adapter.lora_r, params.packing.sequence_len, params.machine.micro_batch_size) == (32, 4096, 2)
    assert params.tokenizer.special_tokens == {"pad_token": "</s>"}


def test_data_sets_of_a_list_get_names(tmp_path: Path):
    params = load(flat(tmp_path))
    assert list(params.datasets) == ["a", "a-2", "b-en", "b-de"]
    assert params.datasets["b-de"].name == "de"


@pytest.mark.parametrize("dead", sorted(SAME_OPTIMIZERS))
def test_an_optimizer_whose_library_is_gone_becomes_the_nearest_living_one_and_is_told(tmp_path: Path, dead: str):
    told: list[str] = []
    params = load(flat(tmp_path, FLAT.replace("adamw_hf", dead)), tell=told.append)
    living, why = SAME_OPTIMIZERS[dead]
    assert params.training.optimizer == living
    assert told == [f"{tmp_path / 'old.yml'}:19: optimizer → training.optimizer: {living} for {dead}: {why}"]
    told.clear()
    sections = tmp_path / "params.yaml"
    sections.write_text(f"model: {{base_model: x}}\ndatasets: {{a: {{path: x}}}}\ntraining:\n  optimizer: {dead}\n")
    assert load(sections, tell=told.append).training.optimizer == living
    assert told == [f"{sections}:4: optimizer {dead} is taken as {living}: {why}"]


def test_errors_of_a_flat_file_name_its_own_lines(tmp_path: Path):
    path = flat(tmp_path, FLAT.replace("lora_r: 32", "lora_r: many"))
    with pytest.raises(ParamsError, match=r"old\.yml:16: adapter\.lora_r: got 'many', wanted integer"):
        load(path)


def test_a_typo_of_a_flat_file_is_an_error(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"old\.yml:\d+: 'sequence_length' is left out: no option .* did you mean 'sequence_len'"):
        load(flat(tmp_path, FLAT.replace("sequence_len:", "sequence_length:")))


def test_an_option_that_is_not_acted_on_yet_is_an_error(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"old\.yml:3: 'xpos_rope' is left out: other positions .* not built"):
        load(flat(tmp_path, FLAT.replace("load_in_8bit: false", "xpos_rope: true")))


def test_every_section_says_what_its_options_are_for():
    import ast
    import inspect

    for name, kind in SECTIONS.items():
        body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                assert isinstance(after, ast.Expr), f"{name}.{node.target.id} has no docstring"  # type: ignore[union-attr]


def test_section_of_knows_all():
    assert section_of()["lora_r"] == "adapter"
    assert "path" not in section_of()


PRETRAINING = """\
base_model: x
pretraining_dataset: org/corpus
max_steps: 10
micro_batch_size: 2
gradient_accumulation_steps: 4
sequence_len: 128
"""


def test_a_pretraining_dataset_becomes_a_streamed_data_set_of_text(tmp_path: Path):
    path = tmp_path / "old.yml"
    path.write_text(PRETRAINING)
    params = load(path)
    data = params.datasets["pretraining"]
    assert (data.path, data.type, data.streaming, data.max_bytes) == ("org/corpus", "completion", True, 8 * 10 * 8 * 128)
    assert params.packing.sample_packing is True
    path.write_text(PRETRAINING.replace("org/corpus", "{path: org/corpus, name: en, field: body, split: dev}"))
    data = load(path).datasets["pretraining"]
    assert (data.name, data.field, data.train_on_split) == ("en", "body", "dev")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("max_steps: 10\n", "", "old.yml:2: pretraining_dataset is a repository, and max_steps says how much of it is read"),
        (
            "max_steps",
            "datasets: [{path: a, type: alpaca}]\nmax_steps",
            "old.yml:2: pretraining_dataset and datasets are both set; remove one",
        ),
    ],
)
def test_a_pretraining_dataset_that_cannot_be_is_told(tmp_path: Path, old: str, new: str, told: str):
    path = tmp_path / "old.yml"
    path.write_text(PRETRAINING.replace(old, new))
    with pytest.raises(ParamsError, match=told):
        load(path)
