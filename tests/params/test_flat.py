"""The flat Axolotl YAML: nothing of it is silently ignored."""

import re
from pathlib import Path

import pytest

from axolotl_core.errors import ParamsError
from axolotl_core.params.document import read
from axolotl_core.params.flat.options import LEFT_OUT, NOT_NEEDED, RENAMED, WITHOUT
from axolotl_core.params.flat.translate import HANDLERS, known, translate
from axolotl_core.params.flat.values import SAME_OPTIMIZERS
from axolotl_core.params.load import load
from axolotl_core.params.params import SECTIONS, section_of
from axolotl_core.params.section import Supported

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
    unsupported = {
        o for kind in SECTIONS.values() for o, field in kind.model_fields.items() if any(isinstance(m, Supported) for m in field.metadata)
    }
    assert set(names) & set(NOT_NEEDED) <= unsupported | set(HANDLERS)
    for table in (WITHOUT, LEFT_OUT):
        assert {name for name in names for pattern in table if re.fullmatch(pattern, name)} <= unsupported | set(HANDLERS)


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
    assert told[0] == f"{tmp_path / 'old.yml'}:19: optimizer → training.optimizer: {living} for {dead}: {why}"
    assert told[1].endswith(
        "batch_size 8 = micro_batch_size 2 × gradient_accumulation_steps 4; Axolotl takes so many on each GPU: "
        "--batch-size, or `axolotl import --num-gpus`"
    )
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


def made_of(tmp_path: Path, text: str, processes: int | None = 1):
    """(document with sections, {option: (migration, told)})"""
    path = tmp_path / "old.yml"
    path.write_text(text)
    made = translate(read(path), processes)
    return made.document.values, {migration.option: (migration.status, migration.message) for migration in made.migrations}


BASE = "base_model: x\ndatasets: [{path: a.jsonl, type: alpaca}]\n"


@pytest.mark.parametrize(
    ("old", "section", "wanted"),
    [
        ("evals_per_epoch: 4\n", "training", {"evals_per_epoch": 4}),
        ("evals_per_epoch: 0\n", "training", {"evaluation_strategy": "no"}),
        ("saves_per_epoch: 1\n", "tracking", {"saves_per_epoch": 1}),
        ("wandb_name: mine\n", "tracking", {"wandb_name": "mine"}),
        ("warmup_steps: 0.1\n", "training", {"warmup_steps": 0.1}),
        ("lr_scheduler: constant\nwarmup_ratio: 0.1\n", "training", {"lr_scheduler": "constant"}),
        ("adam_eps: 1e-6\n", "training", {"adam_epsilon": 1e-6}),
        ("optimizer: ao_adamw_8bit\n", "training", {"optimizer": "adamw_torch_8bit"}),
        ("optimizer: adamw_8bit\n", "training", {"optimizer": "adamw_bnb_8bit"}),
        ("cosine_min_lr_ratio: 0.1\n", "training", {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}),
        ("tokens: {pad_token: <p>, bos_token: <s>}\n", "tokenizer", {"special_tokens": {"pad_token": "<p>", "bos_token": "<s>"}}),
        (
            "special_tokens: {pad_token: <p>, additional_special_tokens: [<a>]}\n",
            "tokenizer",
            {"special_tokens": {"pad_token": "<p>"}, "tokens": ["<a>"]},
        ),
        ("max_packed_sequence_len: 512\nsequence_len: 2048\n", "packing", {"sequence_len": 512, "sample_packing": True}),
        ("sample_packing: true\ngroup_by_length: true\n", "packing", {"sample_packing": True, "sequence_len": 512}),
        ("excess_length_strategy: truncate\n", "packing", {"excess_length": "truncate", "sequence_len": 512}),
        ("attn_implementation: flash_attention_2\n", "machine", {"attn_implementation": "flash_attention_2"}),
        ("gradient_checkpointing: unsloth\n", "machine", {"gradient_checkpointing": "offload"}),
        ("deepspeed: deepspeed_configs/zero3_bf16.json\n", "machine", {"deepspeed": "zero3"}),
        ("deepspeed: mine/zero3.json\n", "machine", {"deepspeed": "mine/zero3.json"}),
        (
            "fsdp_config: {offload_params: true}\nfsdp_version: 2\n",
            "machine",
            {"fsdp_config": {"offload_params": True, "fsdp_version": 2}, "fsdp": True},
        ),
        ("plugins: [axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin]\n", "machine", {"cut_cross_entropy": True}),
        ("relora: true\njagged_restart_steps: 150\nadapter: lora\n", "adapter", {"relora_steps": 150, "adapter": "lora"}),
        ("adapter:\nlora_r: 8\nlora_alpha: 16\n", "adapter", {}),
        ("adapter: lora\nlora_target_modules: all-linear\n", "adapter", {"adapter": "lora", "lora_target_linear": True}),
        ("adapter: lora\npeft: {backend: torchao, weight_dtype: nf4}\n", "model", {"base_model": "x", "load_in_4bit": True}),
        ("unfrozen_parameters: [lm_head]\n", "training", {"unfrozen_parameters": ["lm_head"]}),
        ("use_wandb: false\n", "tracking", {"wandb_mode": "disabled"}),
    ],
)
def test_spellings_of_axolotl_and_what_they_are_here(tmp_path: Path, old: str, section: str, wanted: dict):
    values, migrations = made_of(tmp_path, BASE + "batch_size: 8\n" + old)
    assert values.get(section, {}) == wanted | ({"batch_size": 8} if section == "training" else {})
    assert {line.split(":")[0] for line in old.splitlines()} <= {option.split(":")[0] for option in migrations}


def test_optimizers_of_torchao_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from axolotl_core.params.flat import values

    monkeypatch.setattr(values, "find_spec", lambda _: None)
    made, migrations = made_of(tmp_path, BASE + "optimizer: adamw_torch_4bit\n")
    assert made["training"] == {"optimizer": "adamw_bnb_8bit", "batch_size": 1}
    assert "torchao is not installed" in migrations["optimizer"][1]


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("{path: a, split: 'train[:5%]'}", {"train_on_split": "train[:5%]"}),
        ("{path: a, type: chat_template.default}", {"type": "chat_template"}),
        ("{path: a, type: pretrain, text_column: body}", {"type": "completion", "field": "body"}),
        ("{path: a, trust_remote_code: true, shards: null}", {}),
        ("{path: a, chat_template: mistral_v7_tekken}", {"chat_template": "tokenizer_default"}),
    ],
)
def test_keys_of_data_sets(tmp_path: Path, entry: str, wanted: dict):
    values, _ = made_of(tmp_path, f"base_model: x\ndatasets: [{entry}]\n")
    assert values["datasets"] == {"a": {"path": "a", **wanted}}


def test_unknown_keys_of_data_sets_are_told_in_the_same_round(tmp_path: Path):
    _, migrations = made_of(tmp_path, "base_model: x\nlora_rr: 1\ndatasets: [{path: a, typ: alpaca, field_chosen: c}]\n")
    assert migrations["datasets[0].typ"] == ("left out", "no option of a dataset that is known here; did you mean 'type'?")
    assert migrations["datasets[0].field_chosen"][1].startswith("a preference or reinforcement method")
    assert migrations["lora_rr"][0] == "left out"


def test_test_datasets_are_held_out(tmp_path: Path):
    values, _ = made_of(tmp_path, BASE + "test_datasets: [{path: t.jsonl, type: alpaca}]\n")
    assert values["datasets"]["t"] == {"path": "t.jsonl", "type": "alpaca", "held_out": True}
    assert "held_out" not in values["datasets"]["a"]


def test_the_chat_template_of_the_file_is_that_of_its_conversations(tmp_path: Path):
    data = "datasets: [{path: a, type: chat_template}, {path: b, type: alpaca}, {path: c, type: chat_template, chat_template: llama3}]\n"
    values, migrations = made_of(tmp_path, "base_model: x\nchat_template: chatml\n" + data)
    assert [entry.get("chat_template") for entry in values["datasets"].values()] == ["chatml", None, "llama3"]
    assert migrations["chat_template"] == ("replaced", "chat_template of the dataset a")
    _, migrations = made_of(tmp_path, BASE + "chat_template: chatml\n")
    assert migrations["chat_template"] == ("not needed", "no dataset of type chat_template takes it")


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("rl: dpo", "a preference or reinforcement method"),
        ("processor_type: AutoProcessor", "images and sound"),
        ("qat: {weight_dtype: int8}", "quantised forward pass"),
        ("kd_alpha: 0.9", "distillation"),
        ("xpos_rope: true", "other positions"),
        ("plugins: [axolotl.integrations.spectrum.SpectrumPlugin]", "part of the layers"),
        ("optimizer: muon", "muon is not built"),
        ("llmcompressor: {recipe: {}}", "pruned or compressed"),
    ],
)
def test_what_changes_the_result_and_is_not_here_is_said_by_kind_and_stops_a_flat_file(tmp_path: Path, option: str, kind: str):
    path = tmp_path / "old.yml"
    path.write_text(BASE + option + "\n")
    (migration,) = [migration for migration in translate(read(path)).migrations if migration.option.startswith(option.partition(":")[0])]
    assert (migration.status, migration.stops) == ("left out", True)
    assert kind in migration.message
    with pytest.raises(ParamsError, match=r"old\.yml:3: .* is left out"):
        load(path)


@pytest.mark.parametrize(
    "option", ["context_parallel_size: 2", "use_mlflow: true", "experts_implementation: x", "hub_model_id: me/x", "use_ray: true"]
)
def test_what_changes_no_result_is_left_out_and_stops_nothing(tmp_path: Path, option: str):
    path = tmp_path / "old.yml"
    path.write_text(BASE + option + "\n")
    told: list[str] = []
    load(path, tell=told.append)
    assert any(option.partition(":")[0] in line for line in told)


def test_off_switches_of_what_is_not_here_are_not_needed(tmp_path: Path):
    _, migrations = made_of(tmp_path, BASE + "fp8: false\nuse_pose: false\nreward_model: null\n")
    assert {migration for migration, _ in (migrations[o] for o in ("fp8", "use_pose", "reward_model"))} == {"not needed"}


def test_datasets_as_a_list_in_a_file_with_sections(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("model: {base_model: x}\ndatasets:\n  - {path: a/b.jsonl, type: alpaca}\n  - {path: b.jsonl, split: test}\n")
    told: list[str] = []
    params = load(path, tell=told.append)
    assert list(params.datasets) == ["b", "b-2"]
    assert params.datasets["b-2"].train_on_split == "test"
    assert told == [f"{path}:2: datasets is a list, whose entries are called by their paths: b, b-2"]
    path.write_text("model: {base_model: x}\ndatasets:\n  - {path: a/b.jsonl, type: alpaca, shards: many}\n")
    with pytest.raises(ParamsError, match=r"params\.yaml:3: datasets\.b\.shards: got 'many', wanted integer"):
        load(path)


@pytest.mark.parametrize(
    ("one", "other", "section", "wanted"),
    [
        ("special_tokens: {additional_special_tokens: [<a>]}", "tokens: [<b>]", "tokenizer", {"tokens"}),
        ("special_tokens: {pad_token: <p>}", "tokens: {bos_token: <s>}", "tokenizer", {"special_tokens"}),
        ("cosine_min_lr_ratio: 0.1", "lr_scheduler_kwargs: {num_cycles: 0.5}", "training", {"lr_scheduler", "lr_scheduler_kwargs"}),
        ("chat_template: jinja", "chat_template_jinja: '{{ messages }}'", "datasets", {"a"}),
    ],
)
def test_the_order_of_options_changes_nothing(tmp_path: Path, one: str, other: str, section: str, wanted: set):
    data = "base_model: x\ndatasets: [{path: a, type: chat_template}]\n"

    def plain(value: object) -> object:
        return sorted(value) if isinstance(value, list) else {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

    values, other_way = (made_of(tmp_path, data + "\n".join(lines))[0] for lines in ((one, other), (other, one)))
    assert plain(values[section]) == plain(other_way[section])
    assert set(values[section]) - {"batch_size"} == wanted
    assert "None" not in str(values[section])


@pytest.mark.parametrize(
    ("option", "gpus", "rows"), [("context_parallel_size: 2\ntensor_parallel_size: 2", 8, 8), ("sequence_parallel_degree: 4", 2, 4)]
)
def test_gpus_of_a_parallel_group_share_their_rows(tmp_path: Path, option: str, gpus: int, rows: int):
    values, _ = made_of(tmp_path, BASE + f"micro_batch_size: 4\n{option}\n", gpus)
    assert values["training"]["batch_size"] == rows


def test_test_datasets_as_a_mapping_are_held_out_too(tmp_path: Path):
    values, _ = made_of(tmp_path, "base_model: x\ndatasets: {a: {path: a}}\ntest_datasets: {t: {path: t}}\n")
    assert values["datasets"] == {"a": {"path": "a"}, "t": {"path": "t", "held_out": True}}


def test_the_rows_of_pretraining_suffice_for_all_gpus(tmp_path: Path):
    one, _ = made_of(tmp_path, PRETRAINING, 1)
    four, _ = made_of(tmp_path, PRETRAINING, 4)
    assert four["datasets"]["pretraining"]["max_bytes"] == 4 * one["datasets"]["pretraining"]["max_bytes"]


@pytest.mark.parametrize(
    "text",
    [
        "gradient_accumulation_steps: '4'\nmicro_batch_size: '2'\n",
        "gradient_accumulation_steps: auto\n",
        "batch_size: x\n",
        "foo.bar: 1\nx[0]: 2\n",
        "1: a\n",
        "chat_template: {a: b}\n",
        "special_tokens: [a]\ntokens: {b: c}\n",
        "lr_scheduler_kwargs: x\ncosine_min_lr_ratio: 0.1\n",
        "test_datasets: [{path: t}]\ndatasets: foo\n",
        "plugins: x\nfsdp_config: []\nlora_target_modules: ''\n",
    ],
)
def test_odd_values_are_told_and_never_a_traceback(tmp_path: Path, text: str):
    path = tmp_path / "old.yml"
    path.write_text(("" if "datasets: foo" in text else "datasets: [{path: a, 1: 2}]\n") + "base_model: x\n" + text)
    with pytest.raises(ParamsError):
        load(path)


def test_a_mapping_of_merge_keys_alone_is_read(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("model: {base_model: x}\ndatasets:\n  b: &d {path: x}\n  a:\n    <<: *d\n")
    assert load(path).datasets["a"].path == "x"
