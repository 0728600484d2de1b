"""Every message about params.yaml, word for word."""

from itertools import pairwise
from pathlib import Path

import pytest

from axolotl_core.errors import ParamsError
from axolotl_core.params.document import parsed
from axolotl_core.params.load import load

BASE = "datasets:\n  faq: {path: faq.jsonl}\nmodel:\n  base_model: x\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    path = write(tmp_path, text)
    with pytest.raises(ParamsError) as caught:
        load(path, overrides)
    return str(caught.value).replace(str(path), "params.yaml")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("adapter:\n  lora_rr: 3\n", "params.yaml:6: 'lora_rr' is not an option of the section 'adapter'; did you mean 'lora_r'?"),
        (
            "training:\n  lora_r: 3\n",
            "params.yaml:6: 'lora_r' is not an option of the section 'training'; it belongs into the section 'adapter'",
        ),
        ("trainig: {}\n", "params.yaml:5: 'trainig' is not an option of params.yaml's top level; did you mean 'training'?"),
        ("lora_r: 3\n", "params.yaml:5: 'lora_r' is not an option of params.yaml's top level; it belongs into the section 'adapter'"),
        (
            "export:\n  output_dir: x\n",
            "params.yaml:6: 'output_dir' is not an option of the section 'export'; it is not needed: results lie in artifacts/adapter, "
            "artifacts/merged and artifacts/export",
        ),
        (
            "export:\n  push_to_hub_model_id: x\n",
            "params.yaml:6: 'push_to_hub_model_id' is not an option of the section 'export'; it is called 'hub_model_id' here",
        ),
        ('adapter:\n  lora_r: "8"\n', "params.yaml:6: adapter.lora_r: got '8', wanted integer; write the number without quotes"),
        (
            "training:\n  bf16: yes\n",
            "params.yaml:6: training.bf16: got 'yes', wanted boolean or 'auto' or 'full'; YAML 1.2 knows true and false only",
        ),
        ("packing:\n  sequence_len: 0\n", "params.yaml:6: packing.sequence_len: got 0, wanted greater than or equal to 2"),
        (
            "packing:\n  excess_length: dorp\n",
            "params.yaml:6: packing.excess_length: got 'dorp', wanted 'auto', 'drop', 'truncate', 'split' or 'raise'; did you mean 'drop'?",
        ),
        (
            "adapter:\n  adapter: lora\n  peft_adapter: {}\n",
            "params.yaml:7: peft_adapter is not acted on by this version; got {}, works now: unset",
        ),
        (
            "adapter:\n  adapter: llama-adapter\n",
            "params.yaml:6: adapter is not acted on by this version; got 'llama-adapter', works now: unset, 'lora', 'qlora'",
        ),
        (
            "training:\n  gradient_accumulation_steps: 2\n",
            "params.yaml:6: 'gradient_accumulation_steps' is not an option of the section 'training'; it is not needed: it follows from "
            "batch_size, the rows of a step over all processes, and machine.micro_batch_size",
        ),
        ("training:\n  warmup_steps: 1\n  warmup_ratio: 0.1\n", "params.yaml:7: warmup_ratio and warmup_steps are both set; remove one"),
        (
            "training:\n  evaluation_strategy: steps\n",
            "params.yaml:6: evaluation_strategy is 'steps' but eval_steps is unset; set it",
        ),
        (
            "training:\n  evaluation_strategy: epoch\n  eval_steps: 3\n",
            "params.yaml:7: eval_steps does nothing with evaluation_strategy 'epoch'",
        ),
        ("tracking:\n  save_strategy: steps\n", "params.yaml:6: save_strategy is 'steps' but save_steps is unset; set it"),
        ("tracking:\n  save_strategy: no\n  save_steps: 3\n", "params.yaml:7: save_steps does nothing with save_strategy 'no'"),
        (
            "packing:\n  dataset_shard_num: 3\n",
            "params.yaml:6: dataset_shard_num and dataset_shard_idx belong together; set both or neither",
        ),
        (
            "packing:\n  dataset_shard_num: 3\n  dataset_shard_idx: 3\n",
            "params.yaml:7: dataset_shard_idx is 3, wanted less than dataset_shard_num, which is 3",
        ),
        ("packing:\n  val_set_size: 1.5\n", "params.yaml:6: val_set_size is 1.5, wanted a share below 1 or a whole number"),
        (
            "adapter:\n  lora_target_linear: true\n",
            "params.yaml:6: lora_target_linear does nothing without an adapter; set adapter: lora or remove it",
        ),
        ("adapter:\n  lora_r: 64\n", "params.yaml:6: lora_r does nothing without an adapter; set adapter: lora or remove it"),
        (
            "training:\n  lr_scheduler: cosin\n",
            "params.yaml:6: training.lr_scheduler: got 'cosin', wanted 'cosine', 'linear', 'constant', 'constant_with_warmup', "
            "'cosine_with_restarts', 'cosine_with_min_lr', 'cosine_warmup_with_min_lr', 'polynomial', 'inverse_sqrt', "
            "'warmup_stable_decay', 'one_cycle' or 'log_sweep'; did you mean 'cosine'?",
        ),
        (
            "packing:\n  val_set_size: 10%\n",
            "params.yaml:6: packing.val_set_size: got '10%', wanted number or integer; write the share as a number, 0.1",
        ),
        ("adapter:\n  lora_r: '8'\n", "params.yaml:6: adapter.lora_r: got '8', wanted integer; write the number without quotes"),
        ("adapter:\n  lora_r: many\n", "params.yaml:6: adapter.lora_r: got 'many', wanted integer"),
        ("adapter:\n  lora_r: [8]\n", "params.yaml:6: adapter.lora_r: got [8], wanted integer; write it without brackets, 8"),
        (
            "packing:\n  sample_packing: 'true'\n",
            "params.yaml:6: packing.sample_packing: got 'true', wanted boolean; write true without quotes",
        ),
        (
            "adapter:\n  adapter: lora\n  lora_target_modules: q_proj\n",
            "params.yaml:7: lora_target_modules: 'q_proj' is not a regular expression that matches whole names; write it in brackets, "
            "[q_proj]",
        ),
        (
            "training:\n  lr_scheduler_kwargs: {num_cycles: '2'}\n",
            "params.yaml:6: lr_scheduler_kwargs: num_cycles is '2', wanted a number, without quotes or brackets",
        ),
        (
            "adapter:\n  adapter: lora\n  lora_model_dir: ./artifacts/adapter/\n",
            "params.yaml:7: lora_model_dir is artifacts/adapter, which train itself replaces, so every run would start another; copy the "
            "folder and name the copy",
        ),
        ("training:\n  num_epochs: .inf\n", "params.yaml:6: training.num_epochs: got inf, wanted a finite number"),
    ],
)
def test_one_sentence_with_line_got_wanted_and_nearest_name(tmp_path: Path, text: str, wanted: str):
    assert message(tmp_path, BASE + text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "datasets:\n  faq: {path: x, typ: alpaca}\nmodel: {base_model: x}\n",
            "params.yaml:2: 'typ' is not an option of the section 'datasets'; did you mean 'type'?",
        ),
        (
            "datasets:\n  faq: {path: x, type: {formt: y}}\nmodel: {base_model: x}\n",
            "params.yaml:2: 'formt' is not an option of the section 'datasets'; did you mean 'format'?",
        ),
        (
            "datasets:\n  faq: {path: x, split: a, train_on_split: b}\nmodel: {base_model: x}\n",
            "params.yaml:2: split and train_on_split are both set, and mean the same; remove one",
        ),
        (
            "datasets:\n  faq: {path: x, type: chat_template, chat_template_kwargs: {think: 'False'}}\nmodel: {base_model: x}\n",
            "params.yaml:2: chat_template_kwargs: think is the text 'False', which a template takes for true; write it without quotes",
        ),
        (
            "datasets:\n  my faq: {path: x}\nmodel: {base_model: x}\n",
            "params.yaml:1: dataset name 'my faq' is not made of letters, digits, _ and - (DVC needs that)",
        ),
        (
            "datasets:\n  faq: {path: x, conversation: chatml}\nmodel: {base_model: x}\n",
            "params.yaml:2: conversation does nothing with type 'pretokenized'; it is for sharegpt, sharegpt_jokes",
        ),
        (
            "datasets:\n  faq: {path: x}\nmodel: {}\n",
            "params.yaml:3: model.base_model is missing; wanted a hub repository, a folder, a .gguf file or package:NAME/FILE",
        ),
        ("datasets:\n  faq: {path: x}\nprompt: {}\n", "params.yaml: model is missing; wanted a section with base_model"),
        (
            "model:\n  base_model: x\n",
            "params.yaml: datasets is missing; wanted a mapping from a name to a dataset with path and type",
        ),
        ("datasets: {}\nmodel: {base_model: x}\n", "params.yaml:1: datasets: got {}, wanted at least one entry"),
        ("datasets: {a: 3}\nmodel: {base_model: x}\n", "params.yaml:1: datasets.a: got 3, wanted a mapping of options"),
        ("datasets: {1: {path: x}}\nmodel: {base_model: x}\n", "params.yaml:1: datasets.1: got 1, wanted text"),
        ("- a\n- b\n", "params.yaml: got CommentedSeq, wanted a mapping of sections such as `model:`"),
        ("model: [x\n", "params.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, wanted: str):
    assert message(tmp_path, text) == wanted


def test_a_missing_file_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"no such file; `axolotl init DIR` makes a project with one"):
        load(tmp_path / "params.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="cannot be read"):
        load(tmp_path / "params.yaml")


def test_all_problems_are_told_at_once(tmp_path: Path):
    told = message(tmp_path, BASE + "adapter:\n  lora_rr: 3\npacking:\n  sequence_len: x\n")
    assert len(told.splitlines()) == 2


def test_yaml_is_read_as_1_2_like_dvc_does(tmp_path: Path):
    params = load(write(tmp_path, BASE + "training:\n  learning_rate: 2e-5\n"))
    assert params.training.learning_rate == 2e-5


def test_sections_may_be_empty_or_missing(tmp_path: Path):
    assert load(write(tmp_path, BASE + "export:\nmachine: {}\n")).packing.sequence_len == 2048


@pytest.mark.parametrize("name", ["training.learning_rate", "learning_rate"])
def test_set_takes_both_spellings(tmp_path: Path, name: str):
    assert load(write(tmp_path, BASE), [f"{name}=1e-4"]).training.learning_rate == 1e-4


def test_set_reaches_into_a_data_set(tmp_path: Path):
    assert load(write(tmp_path, BASE), ["datasets.faq.type=completion"]).datasets["faq"].type == "completion"


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("lora_rr=3", "--set lora_rr=3: no option is called 'lora_rr'; did you mean 'lora_r'?"),
        ("lora_r", "--set lora_r: got no '=', wanted option=value"),
        ("adapter.lora_rr=3", "--set adapter.lora_rr: 'lora_rr' is not an option of the section 'adapter'; did you mean 'lora_r'?"),
        ("datasets.faq.path.x=3", "--set datasets.faq.path.x: path is not a section of params.yaml"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, wanted: str):
    assert message(tmp_path, BASE, override) == wanted


def test_set_reaches_into_an_empty_section(tmp_path: Path):
    assert load(write(tmp_path, BASE + "packing:\n"), ["packing.sequence_len=64"]).packing.sequence_len == 64


def test_merge_keys_are_understood(tmp_path: Path):
    text = "datasets:\n  a: &a {path: x, type: completion}\n  b: {<<: *a, path: y}\nmodel: {base_model: x}\n"
    assert load(write(tmp_path, text)).datasets["b"].type == "completion"


@pytest.mark.parametrize("machine", ["{}", "{micro_batch_size: 2}", "{micro_batch_size: 3, num_processes: 4}"])
def test_the_machine_does_not_decide_the_rows_of_a_step(tmp_path: Path, machine: str):
    params = load(write(tmp_path, BASE + f"machine: {machine}\n"))
    assert params.training.batch_size == 8
    assert params.training.identity() == {}


def test_defaults_do_not_enter_the_identity(tmp_path: Path):
    plain = load(write(tmp_path, BASE)).packing.identity()
    spelled = load(write(tmp_path, BASE + "packing:\n  sequence_len: 2048\n")).packing.identity()
    assert plain == spelled == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("model:\n  base_model: x\n  load_in_8bit: true\n", "load_in_8bit is for training an adapter; set adapter: lora, or remove it"),
        ("adapter:\n  adapter: qlora\n", "adapter is 'qlora', which is LoRA on a base of 4 bit; set model.load_in_4bit: true"),
        ("training:\n  bf16: true\n  fp16: true\n", "bf16 and fp16 are both set; weights have one dtype, keep one"),
        ("adapter:\n  adapter: lora\n  relora_steps: 5\ntraining:\n  lr_scheduler: one_cycle\n", "relora_steps breaks the one cycle of"),
        ("adapter:\n  relora_steps: 5\n", "relora_steps does nothing without an adapter; set adapter: lora or remove it"),
        ("training:\n  early_stopping_patience: 2\n", "early_stopping_patience requires validation rows; set packing.val_set_size"),
        ("training:\n  group_by_length: true\npacking:\n  sample_packing: true\n", "group_by_length is for samples that are not packed"),
        (
            "training:\n  lr_scheduler: constant\n  warmup_steps: 3\n",
            "warmup_steps does nothing with lr_scheduler 'constant'; use constant_with",
        ),
        (
            "training:\n  lr_scheduler: log_sweep\n",
            "lr_scheduler is 'log_sweep', which requires log_sweep_min_lr and log_sweep_max_lr; set",
        ),
        ("training:\n  lr_div_factor: 10\n", "lr_div_factor does nothing with lr_scheduler 'cosine'; it is for one_cycle"),
        ("tracking:\n  save_steps: 1.5\n", "tracking.save_steps: got 1.5, wanted"),
    ],
)
def test_methods_that_do_not_go_together_are_told(tmp_path: Path, text: str, wanted: str):
    base = "datasets:\n  a: {path: a.jsonl, type: alpaca}\n" + ("" if "model:" in text else "model:\n  base_model: x\n")
    path = tmp_path / "params.yaml"
    path.write_text(base + text, encoding="utf-8")
    with pytest.raises(ParamsError) as error:
        load(path)
    assert wanted in str(error.value)


def test_the_batch_of_a_flat_file_is_a_product_that_the_machine_does_not_change(tmp_path: Path):
    path = tmp_path / "old.yml"
    path.write_text(
        "base_model: x\ndatasets: [{path: a.jsonl, type: alpaca}]\ngradient_accumulation_steps: 4\nmicro_batch_size: 2\nnum_processes: 3\n"
    )
    assert load(path).training.batch_size == 24
    assert load(path, ["machine.num_processes=1", "machine.micro_batch_size=1"]).training.batch_size == 24
    assert load(path, ["training.batch_size=6"]).training.batch_size == 6
    path.write_text("base_model: x\ndatasets: [{path: a.jsonl, type: alpaca}]\n")
    assert load(path).training.batch_size == 1, "Axolotl's default"


LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghij"))


MERGES = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(200)) + "}\n" + "".join(f"b{i}:\n  <<: *a\n" for i in range(2000))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, r"params.yaml:5: the aliases \(\*\) up to here stand for over 50,000 values, or for themselves; write them out"),
        ("a: &a\n  <<: *a\n", r"params.yaml:2: the aliases \(\*\) up to here stand for over 50,000 values, or for themselves"),
        ("a: &a [*a]\n", r"params.yaml:1: the aliases \(\*\) up to here stand for over 50,000 values, or for themselves"),
        (MERGES, r"params.yaml:2\d+: the aliases \(\*\) up to here stand for over 50,000 values, or for themselves; write them out"),
        (f"a: {'[' * 5000}{']' * 5000}", r"params.yaml:1: is nested over 50 levels deep; no option is"),
        ("".join(f"{' ' * i}a:\n" for i in range(3000)), r"params.yaml:51: is nested over 50 levels deep; no option is"),
        (f"a: 1\nb: {'1' * 6000}", r"params.yaml:2: not valid YAML: a number is too long"),
        (f"a: 0x{'f' * 6000}", r"params.yaml:1: the number is too large, wanted one of at most 64 bits"),
        ("a: !!python/object/apply:os.system [x]", r"params.yaml:1: has the tag .*python/object/apply:os.system, which is not understood"),
        ("a: !vault secret", r"params.yaml:1: has the tag !vault, which is not understood; write a plain value"),
        ("a: !!binary aGk=", r"params.yaml:1: got a value of the kind bytes, which no option has; write a plain value"),
        ("a: 2024-99-99", r"params.yaml: not valid YAML: it cannot be read: month must be in 1..12"),
    ],
)
def test_a_text_that_is_made_to_hurt_is_one_sentence(text: str, told: str):
    with pytest.raises(ParamsError, match=told) as raised:
        parsed(text, "params.yaml")
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("hf_use_auth_token: hf_abcdefghijklmnop", "hf_abc"),
        ("hf_use_auth_token: some words of mine", "words"),
        ("tf32: sk-proj-1234567890", "1234"),
        ("micro_batch_size: 0123456789abcdef0123456789abcdef01234567", "0123"),
    ],
)
def test_a_token_that_was_pasted_into_another_option_is_not_shown(tmp_path: Path, line: str, secret: str):
    (tmp_path / "params.yaml").write_text(f"datasets: {{a: {{path: x}}}}\nmodel: {{base_model: x}}\nmachine:\n  {line}\n")
    with pytest.raises(ParamsError, match=r"params.yaml:4: machine\.\w+: got what looks like a token \(not shown\), wanted") as raised:
        load(tmp_path / "params.yaml")
    assert secret not in str(raised.value)


def test_a_value_that_goes_on_and_on_is_cut(tmp_path: Path):
    (tmp_path / "params.yaml").write_text(f"datasets: {{a: {{path: x}}}}\nmodel: {{base_model: x}}\nmachine:\n  tf32: '{'ab ' * 5000}'\n")
    with pytest.raises(ParamsError) as raised:
        load(tmp_path / "params.yaml")
    assert len(str(raised.value)) < 400
