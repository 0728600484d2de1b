"""A stage: same bytes anywhere, up to date or not, inputs verified, nothing lost."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from axolotl_core.artifacts.manifest import artifact_digest
from axolotl_core.errors import ArtifactError, DataError, MachineError, ParamsError
from tests.conftest import edit, stage, write_jsonl


def digests(project: Path, *names: str) -> list[str]:
    return [artifact_digest(project / "artifacts" / name) for name in names]


def test_bytes_are_equal_in_two_working_directories(project: Path, tmp_path_factory: pytest.TempPathFactory, axolotl):
    names = ("raw/sums", "raw/talks", "tokenizer", "base", "tokens/sums", "tokens/talks", "packed", "adapter", "merged")
    other = tmp_path_factory.mktemp("another place") / "deeper"
    shutil.copytree(project, other)
    for folder, seed in ((project, "1"), (other, "2")):
        axolotl("stage", "merge", cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed})
    assert digests(project, *names) == digests(other, *names)


def test_a_second_run_does_nothing(project: Path, capsys):
    assert stage("pack") == 6
    capsys.readouterr()
    assert stage("pack") == 0
    assert capsys.readouterr().out.count("up to date") == 6


def test_an_edit_that_leaves_the_bytes_alone_stops_there(project: Path):
    stage("pack")
    rows = (project / "data" / "sums.jsonl").read_text().splitlines()
    (project / "data" / "sums.jsonl").write_text("\n".join(row.replace(": ", ":  ") for row in rows))
    assert stage("pack") == 1  # fetched again, to the same rows


def test_force_runs_the_stage_itself_again(project: Path):
    stage("pack")
    assert stage("pack", force=True) == 1


def test_only_needs_its_inputs(project: Path):
    with pytest.raises(ArtifactError, match="artifacts/tokens/sums: is missing; run the stage that makes it"):
        stage("pack", only=True)


def test_a_damaged_input_is_refused_by_name(project: Path):
    stage("pack")
    part = project / "artifacts" / "tokens" / "sums" / "part-00000.arrow"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"tokens/sums/part-00000.arrow: damaged artifact, got digest"):
        stage("pack", "packing.sequence_len=64", only=True)
    assert stage("pack", "packing.sequence_len=64") == 2, "tokenize is made whole again"


def test_a_manifest_that_was_changed_is_refused(project: Path):
    stage("pack")
    edit(project / "artifacts" / "tokens" / "sums" / "manifest.json", '"rows": 24', '"rows": 23')
    with pytest.raises(ArtifactError, match="sums/manifest.json: damaged artifact, it is not the manifest that its stage wrote"):
        stage("pack", only=True, force=True)


def test_a_gap_in_the_lineage_is_refused(project: Path):
    stage("pack")
    (project / "artifacts" / "keys" / "tokens" / "sums.json").unlink()
    with pytest.raises(ArtifactError, match=r"keys/tokens/sums.json: is missing; `dvc pull .*` or run its stage"):
        stage("pack", only=True, force=True)


def test_an_artifact_of_another_size_is_made_again(project: Path):
    stage("pack")
    (project / "artifacts" / "raw" / "sums" / "part-00000.arrow").write_bytes(b"")
    assert stage("pack") == 1


def test_data_sets_that_params_no_longer_name_stay_for_those_that_name_them(project: Path):
    stage("pack")
    before, text = digests(project, "packed", "tokens/talks"), (project / "params.yaml").read_text()
    begin, end = text.index("  talks:"), text.index("tokenizer:")
    (project / "params.yaml").write_text(text[:begin] + text[end:])
    stage("pack")
    assert digests(project, "packed") != before[:1]
    assert digests(project, "tokens/talks") == before[1:]
    (project / "params.yaml").write_text(text)
    assert stage("pack") == 1, "nothing is fetched or tokenised again"
    assert digests(project, "packed", "tokens/talks") == before


def test_a_malformed_line_keeps_the_artifact_there_was(project: Path):
    stage("pack")
    before = digests(project, "raw/sums", "packed")
    with (project / "data" / "sums.jsonl").open("a") as file:
        file.write('{"instruction": \n')
    with pytest.raises(DataError, match=r"data/sums.jsonl:25: malformed JSON: .*; it begins with '\{\"instruction\":'"):
        stage("pack")
    assert digests(project, "raw/sums", "packed") == before


def test_a_row_that_does_not_fit_is_named_through_the_stage(project: Path):
    write_jsonl(project / "data" / "sums.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(DataError, match="data/sums.jsonl:1: format alpaca wants the field 'instruction', the row has question, answer"):
        stage("pack")


def test_an_empty_file_is_told(project: Path):
    (project / "data" / "sums.jsonl").write_text("")
    with pytest.raises(DataError, match=r"data/sums.jsonl: the dataset is empty, it has no row"):
        stage("pack")


def test_samples_that_are_all_too_long_are_told(project: Path):
    with pytest.raises(DataError, match="no sample is left to pack: all are longer than sequence_len 4; raise it or set excess_length"):
        stage("pack", "packing.sequence_len=4")


def test_answers_that_are_all_cut_off_are_told(project: Path):
    with pytest.raises(DataError, match="no token is trained: sequence_len 5 cuts every answer off; raise it"):
        stage("pack", "packing.sequence_len=5", "packing.excess_length=truncate")


def test_drops_by_length_are_counted_and_said(project: Path, capsys):
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "a", "output": "b " * n} for n in (1, 2, 200)])
    stage("pack", "packing.val_set_size=0")
    manifest = json.loads((project / "artifacts" / "packed" / "manifest.json").read_text())
    assert manifest["too_long"] == {"sums": {"samples": 1, "fate": "drop"}}
    assert "sums: 1 samples over 128 tokens dropped" in capsys.readouterr().out


def test_one_row_in_n_is_taken(project: Path):
    stage("fetch@sums", "datasets.sums.shards=5")
    assert json.loads((project / "artifacts" / "raw" / "sums" / "manifest.json").read_text())["rows"] == 5


def test_a_full_disk_keeps_the_artifact_there_was(project: Path, axolotl):
    stage("fetch@sums")
    before = digests(project, "raw/sums")
    write_jsonl(project / "data" / "sums.jsonl", [{"instruction": "a" * 1000, "output": "b"}] * 200)
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000)); from axolotl_core.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "stage", "fetch@sums"], capture_output=True, text=True, check=False)
    assert done.returncode == MachineError.exit_status
    assert "raw/sums: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert digests(project, "raw/sums") == before
    assert [path.name for path in (project / "artifacts" / "raw").iterdir()] == ["sums"]


def test_a_mistake_has_no_traceback_and_a_status_of_its_own(project: Path, axolotl):
    edit(project / "params.yaml", "lora_r: 4", "lora_rr: 4")
    done = axolotl("stage", "train", cwd=project, status=2)
    assert done.stderr == "axolotl: params.yaml:19: 'lora_rr' is not an option of the section 'adapter'; did you mean 'lora_r'?\n"


def test_dvc_yaml_of_another_version_is_told(project: Path, axolotl):
    done = axolotl("stage", "fetch@sums", "--only", "--revision", "99", cwd=project, status=2)
    assert re.fullmatch(r"axolotl: dvc.yaml asks for revision 99 of fetch, this axolotl has \d+; run `axolotl upgrade`\n", done.stderr)


def test_a_flat_axolotl_yaml_runs_as_it_is(project: Path, axolotl):
    (project / "old.yml").write_text(
        "base_model: ./model\ndatasets:\n  - path: data/sums.jsonl\n    type: alpaca\nsequence_len: 64\nsample_packing: true\n"
        "output_dir: ./out\nmicro_batch_size: 1\nadapter:\n"
    )
    assert "rows of 64" in axolotl("stage", "pack", "--params", "old.yml", cwd=project).stdout


def words(*options: str) -> list[str]:
    return [word for option in options for word in ("--set", option)]


LONG = words(
    "training.num_epochs=24", "training.warmup_steps=5", "training.batch_size=4", "tracking.save_steps=2", "tracking.save_total_limit=2"
)
"""Dropout, accumulation, packing and warmup are on; a checkpoint every other step, so that many a kill falls into one."""
KILLS = 6


def started(project: Path, *options: str) -> subprocess.Popen:
    command = ["axolotl", "stage", "train", *options]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def step_of(project: Path) -> int:
    return max([int(p.name[5:]) for p in project.glob(".axolotl/runs/*/step-*") if p.name[5:].isdigit()], default=0)


def test_kill_9_at_random_moments_and_resume_gives_the_same_adapter_bytes_and_losses(
    project: Path, tmp_path_factory: pytest.TempPathFactory, axolotl
):
    other = tmp_path_factory.mktemp("killed") / "project"
    shutil.copytree(project, other)
    axolotl("stage", "train", *LONG, cwd=project)

    axolotl("stage", "pack", cwd=other)
    draw = random.Random(4)
    kills, interrupted_writes = 0, 0
    while kills < KILLS:
        before, process = step_of(other), started(other, *LONG)
        while process.poll() is None and step_of(other) <= before:  # it has begun to train
            time.sleep(0.002)
        if kills % 2:
            while process.poll() is None and not any(other.glob(".axolotl/runs/*/.step-*/checkpoint/*")):
                time.sleep(0.0005)
        else:
            time.sleep(draw.uniform(0, 0.2))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        interrupted_writes += any(other.glob(".axolotl/runs/*/.step-*"))
    assert kills == KILLS, f"the run was over after {kills} kills, make it longer"
    assert interrupted_writes >= 2, "hardly a kill fell into the writing of a checkpoint"
    assert not (other / "artifacts" / "adapter").exists()
    done = axolotl("stage", "train", *LONG, cwd=other)
    assert "resumed from the checkpoint of step" in done.stdout
    assert digests(project, "adapter") == digests(other, "adapter")
    assert losses(project) == losses(other)
    (run,) = other.glob(".axolotl/runs/*")
    assert sorted(path.name for path in run.iterdir()) == ["FINISHED", "lock", f"step-{step_of(other)}"], "what a branch needs is kept"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_has_a_status_of_its_own(project: Path, axolotl, number: signal.Signals):
    options = (*LONG, *words("tracking.save_steps=10", "training.num_epochs=200"))
    axolotl("stage", "pack", cwd=project)
    process = started(project, *options)
    while process.poll() is None and step_of(project) < 10:
        time.sleep(0.005)
    process.send_signal(number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 75, told
    step = step_of(project)
    assert step > 10
    assert f"training was stopped: checkpoint {next(project.glob('.axolotl/runs/*/')) / f'step-{step}'} was written" in told
    assert not (project / "artifacts" / "adapter").exists()


def losses(project: Path) -> list[list[str]]:
    """The log without speed and memory, which are the machine's."""
    train, held_out = ((project / "artifacts" / "plots" / name).read_text().splitlines() for name in ("train.csv", "eval.csv"))
    return [line.split(",")[:5] for line in train] + [line.split(",") for line in held_out]


def test_a_run_branches_from_a_checkpoint_of_another_and_the_lineage_says_so(project: Path, axolotl):
    axolotl("stage", "pack", cwd=project)
    process = started(project, *LONG)
    while process.poll() is None and step_of(project) < 6:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    checkpoint = next(project.glob(f".axolotl/runs/*/step-{step_of(project)}"))
    options = (*LONG, *words("training.learning_rate=5e-3"))
    refused = axolotl("stage", "train", *options, "--set", f"tracking.resume_from_checkpoint={checkpoint}", cwd=project, status=1)
    assert [line.split() for line in refused.stderr.splitlines()[1:3]] == [
        ["checkpoint", "now"],
        ["training.learning_rate", "0.01", "0.005"],
    ]
    done = axolotl("stage", "train", *options, "--branch-from", str(checkpoint), cwd=project)
    assert f"branched from {checkpoint}, step {checkpoint.name[5:]} of the run" in done.stdout
    record = json.loads((project / "artifacts" / "keys" / "adapter.json").read_text())
    assert len(record["inputs"]["branch"]) == 32
    steps = [line.split(",")[0] for line in (project / "artifacts" / "plots" / "train.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(1, 121)], "the log is that of both"
    assert "up to date" in axolotl("stage", "train", *options, "--branch-from", str(checkpoint), cwd=project).stdout.splitlines()[-1]
    assert "up to date" not in axolotl("stage", "train", *options, cwd=project).stdout.splitlines()[-1], "another run"
    wrong = axolotl("stage", "train", *options, "--branch-from", "nowhere", cwd=project, status=1)
    assert wrong.stderr == "axolotl: --branch-from: nowhere is not a complete checkpoint: COMPLETE is missing or unreadable\n"


def packed_facts(project: Path) -> dict:
    return json.loads((project / "artifacts" / "packed" / "manifest.json").read_text())


def test_data_sets_that_are_held_out_are_validated_on_and_never_trained_on(project: Path):
    stage("pack", "datasets.talks.held_out=true", "packing.val_set_size=0")
    facts = packed_facts(project)
    assert (facts["train"]["samples"], facts["eval"]["samples"]) == (24, 12)
    stage("pack", "datasets.talks.held_out=true", "packing.val_set_size=4")
    facts = packed_facts(project)
    assert (facts["train"]["samples"], facts["eval"]["samples"]) == (20, 16)
    with pytest.raises(ParamsError, match="every dataset is held out"):
        stage("pack", "datasets.talks.held_out=true", "datasets.sums.held_out=true")


def test_samples_that_are_there_twice_are_kept_once(project: Path, capfd):
    with (project / "data" / "sums.jsonl").open("a") as file:
        file.write((project / "data" / "sums.jsonl").read_text().splitlines()[0] + "\n")
    stage("pack", "packing.dataset_exact_deduplication=true", "packing.val_set_size=0")
    facts = packed_facts(project)
    assert facts["train"]["samples"] == 24 + 12
    assert "sums: 1 duplicates dropped" in capfd.readouterr().out


def test_samples_that_are_too_long_can_be_an_error(project: Path):
    with pytest.raises(DataError, match=r"datasets.sums: \d+ samples are over sequence_len 40, the first is sample 1 of \d+ tokens; raise"):
        stage("pack", "packing.excess_length=raise", "packing.sequence_len=40")


def test_without_a_shuffle_the_first_samples_are_held_out(project: Path):
    from axolotl_core.packing.index import read_rows

    stage("pack", "packing.shuffle_merged_datasets=false", "packing.sample_packing=false")
    pieces = read_rows(project / "artifacts" / "packed" / "eval").pieces
    assert pieces.sample.tolist() == list(range(6))


def test_a_slice_of_a_local_file_is_fetched(project: Path):
    stage("fetch@sums", "datasets.sums.train_on_split='train[:25%]'")
    assert json.loads((project / "artifacts" / "raw" / "sums" / "manifest.json").read_text())["rows"] == 6
    stage("fetch@sums", "datasets.sums.train_on_split='train[20:]'")
    assert json.loads((project / "artifacts" / "raw" / "sums" / "manifest.json").read_text())["rows"] == 4


def test_a_dataset_is_tokenised_while_another_is_still_fetched(project: Path, capsys):
    from axolotl_core.cli.project import open_project
    from axolotl_core.stages.graph import steps
    from axolotl_core.stages.run import Execution

    (project / "data" / "sums.jsonl").write_bytes(b'{"instruction": "Add.", "output": "2"}\n' * 500_000)
    project_, params = open_project(Path("params.yaml"), ["machine.dataset_processes=2"])
    chain = [step for step in steps(params.datasets) if step.name in ("fetch@sums", "fetch@talks", "fetch-tokenizer", "tokenize@talks")]
    with ExitStack() as stack:
        assert Execution(project_, params, chain, chain, False, None, stack).run() == 4
    order = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith(("fetch", "tokenize"))]
    assert order.index("tokenize@talks") < order.index("fetch@sums")
