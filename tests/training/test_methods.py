"""Every way of training, through the real stages: what it leaves, and that it does what its name says."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from axolotl_core.adapters import lora
from axolotl_core.artifacts.manifest import artifact_digest, read
from axolotl_core.errors import MachineError, ModelError, ParamsError, TrainError
from axolotl_core.models.load import load_model
from axolotl_core.params.machine import Machine
from axolotl_core.training import artifact
from tests.conftest import edit, stage

LORA = "  adapter: lora\n  lora_r: 4\n  lora_dropout: 0.1\n  lora_target_linear: true\n"
IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90]])
FOUR_BIT = ("adapter.adapter=qlora", "model.load_in_4bit=true")


def whole(project: Path) -> None:
    """Train all weights, more slowly."""
    edit(project / "params.yaml", LORA, "  adapter:\n")
    edit(project / "params.yaml", "learning_rate: 1e-2", "learning_rate: 1e-3")


def metrics(project: Path) -> dict:
    return json.loads((project / "artifacts" / "metrics" / "train.json").read_text())


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits


@pytest.mark.parametrize("quantised", [FOUR_BIT, ("model.load_in_8bit=true",)], ids=["4bit", "8bit"])
def test_a_quantised_base_trains_an_adapter_that_is_merged_into_the_whole_base(project: Path, quantised: tuple):
    stage("evaluate", *quantised)
    stage("merge", *quantised)
    found = metrics(project)
    assert found["eval_loss_after"] < found["eval_loss_before"] - 1
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(found["eval_loss_after"], rel=1e-3)
    base = AutoModelForCausalLM.from_pretrained(project / "model")
    with torch.no_grad():
        wanted = lora.apply(base, project / "artifacts" / "adapter").eval()(IDS).logits
    assert torch.allclose(logits(project / "artifacts" / "merged"), wanted, atol=1e-5)


def updates(project: Path) -> dict[str, torch.Tensor]:
    """What training did to each weight of the base."""
    after, before = (load_file(folder / "model.safetensors") for folder in (project / "artifacts" / "adapter", project / "model"))
    return {name: after[name].double() - before[name].double() for name in before}


@pytest.mark.parametrize("quantised", [(), FOUR_BIT, ("model.load_in_8bit=true",)], ids=["fp32", "4bit", "8bit"])
def test_relora_leaves_a_whole_model_with_updates_of_higher_rank_and_without_drift(project: Path, quantised: tuple):
    options = ("adapter.relora_steps=5", "adapter.relora_warmup_steps=1", "adapter.lora_r=3", *quantised)
    stage("train", *options)
    assert read(project / "artifacts" / "adapter")["kind"] == "full"
    assert metrics(project)["eval_loss_after"] < metrics(project)["eval_loss_before"] - 1
    found = updates(project)
    touched = {name for name, update in found.items() if update.any()}
    assert touched == {name for name in found if "_proj" in name}
    sizes = torch.linalg.svdvals(found["model.layers.0.mlp.up_proj.weight"])  # 4 updates of rank 3 in 32 × 64
    assert sizes[3] > 1e-3, "one update alone would have rank 3"
    assert sizes[12] < 1e-6 * sizes[0], "rounding or quantising would have touched every direction"


@pytest.mark.parametrize("step", [40, 45], ids=["at a merge", "between merges"])
def test_relora_goes_on_from_a_checkpoint_to_the_same_bytes(project: Path, step: int, axolotl):
    options = ("adapter.relora_steps=20", "training.num_epochs=20", "tracking.save_steps=5", "tracking.save_total_limit=99")
    stage("train", *options)
    wanted = artifact_digest(project / "artifacts" / "adapter")
    shutil.rmtree(project / ".axolotl" / "runs")
    words = [word for option in options for word in ("--set", option)]
    command = ["axolotl", "stage", "train", "--force", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not any(int(p.name[5:]) >= 45 for p in project.glob(".axolotl/runs/*/step-*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (folder,) = project.glob(f".axolotl/runs/*/step-{step}")
    assert (folder / "merged.safetensors").is_file()
    stage("train", *options, f"tracking.resume_from_checkpoint={folder}", force=True)
    assert artifact_digest(project / "artifacts" / "adapter") == wanted


@pytest.mark.parametrize("option", ["peft_use_dora", "peft_use_rslora"])
def test_variants_of_lora_merge_to_what_was_trained(project: Path, option: str):
    stage("merge", f"adapter.{option}=true")
    assert json.loads((project / "artifacts" / "adapter" / lora.CONFIG).read_text())[option.removeprefix("peft_")] is True
    base = AutoModelForCausalLM.from_pretrained(project / "model")
    with torch.no_grad():
        wanted = lora.apply(base, project / "artifacts" / "adapter").eval()(IDS).logits
    assert torch.allclose(logits(project / "artifacts" / "merged"), wanted, atol=1e-4)


def test_training_goes_on_from_an_adapter(project: Path):
    stage("train")
    before = metrics(project)["eval_loss_after"]
    (project / "artifacts" / "adapter").rename(project / "mine")
    stage("train", "adapter.lora_model_dir=mine")
    assert metrics(project)["eval_loss_before"] == pytest.approx(before, rel=1e-6)
    with pytest.raises(ModelError, match="adapter.lora_r is 8, but the adapter in lora_model_dir has 4; remove it, or train a fresh"):
        stage("train", "adapter.lora_model_dir=mine", "adapter.lora_r=8")
    with pytest.raises(ParamsError, match=r"adapter.lora_model_dir: .*model is not an adapter of peft's, adapter_config.json is missing"):
        stage("train", "adapter.lora_model_dir=model")


def test_another_adapter_to_go_on_from_trains_again(project: Path):
    stage("train")
    (project / "artifacts" / "adapter").rename(project / "mine")
    assert stage("train", "adapter.lora_model_dir=mine") == 1
    assert stage("train", "adapter.lora_model_dir=mine") == 0
    config = project / "mine" / lora.CONFIG
    config.write_text(config.read_text() + "\n")
    assert stage("train", "adapter.lora_model_dir=mine") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("training.bf16=true",),
        ("training.fp16=true",),
        ("training.bf16=full",),
        ("model.bfloat16=true",),
        ("training.neftune_noise_alpha=5",),
        ("adapter.loraplus_lr_ratio=4",),
        ("training.optimizer=lion_8bit", "training.learning_rate=4e-3"),
        ("training.group_by_length=true", "packing.sample_packing=false"),
        ("machine.torch_compile=true", "machine.torch_compile_backend=aot_eager"),
    ],
    ids=lambda options: options[0],
)
def test_options_train(project: Path, options: tuple):
    stage("train", *options)
    found = metrics(project)
    assert found["eval_loss_after"] < found["eval_loss_before"] - 1


def test_compiled_layers_train_to_the_same_losses(project: Path):
    found = []
    for compiled in ("false", "true"):
        stage(
            "train", f"machine.torch_compile={compiled}", "machine.torch_compile_backend=aot_eager", "adapter.lora_dropout=0.0", force=True
        )
        found.append(metrics(project)["eval_loss_after"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_all_weights_in_sixteen_bits_stay_in_the_bases_format(project: Path):
    whole(project)
    stage("train", "training.bf16=full")
    found = metrics(project)
    assert found["precision"] == "bf16 full"
    assert found["eval_loss_after"] < found["eval_loss_before"]
    assert AutoModelForCausalLM.from_pretrained(project / "artifacts" / "adapter").dtype == torch.float32


def test_an_update_that_nothing_reached_is_reported_and_kept(project: Path, capsys):
    stage("train", "training.lr_scheduler=cosine", "training.learning_rate=1e-46")
    assert "14 of 28 trained matrices are still zero, the first is base_model.model.model.layers.0" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["lora", "full", "relora"])
def test_an_artifact_that_is_not_what_was_trained_is_an_error_and_the_next_try_takes_seconds(
    project: Path, monkeypatch: pytest.MonkeyPatch, method: str, capsys
):
    options = {"lora": (), "full": (), "relora": ("adapter.relora_steps=5",)}[method]
    if method == "full":
        whole(project)
    stage("pack")
    name = {"lora": "file_name", "full": "write_model", "relora": "rewrite_parameters"}[method]
    module = lora if method == "lora" else artifact
    plain = getattr(module, name)
    spoilt = {
        "file_name": lambda name: plain(name).replace("lora_A", "lora_B") if "layers.0.mlp.up_proj" in name else plain(name),
        "write_model": lambda model, out, layout, weights: plain(model, out, layout, ((n, w * 1.5) for n, w in weights)),
        "rewrite_parameters": lambda base, out, change: plain(base, out, lambda name, old: change(name, old) * 1.5),
    }
    with monkeypatch.context() as patch, pytest.raises(TrainError, match="was (not read back as it was written|read back as)"):
        patch.setattr(module, name, spoilt[name])
        stage("train", *options)
    assert not (project / "artifacts" / "adapter").exists()
    capsys.readouterr()
    stage("train", *options)
    told = "".join(capsys.readouterr())
    last = metrics(project)["steps"]
    assert f"resumed from the checkpoint of step {last}" in told
    assert f"step {last}/{last}" not in told, "no step was made again"


def test_an_output_layer_that_is_the_embeddings_is_no_target(project: Path):
    model = AutoModelForCausalLM.from_pretrained(project / "model")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(project / "model")
    with pytest.raises(ModelError, match="'lm_head' shares its weight between embeddings and output layer, so an update of one"):
        stage("train", "adapter.lora_target_modules=[lm_head]", "adapter.lora_target_linear=false")


def test_memory_that_runs_out_is_explained(project: Path):
    """A vocabulary of 512 needs little: what is requested is a batch that no memory of 3 GiB holds."""
    stage("pack", "packing.sequence_len=128")
    command = [sys.executable, "-c", "from axolotl_core.cli.main import main; main()", "stage", "train"]
    words = [
        word
        for o in ("machine.eager_attention=true", "packing.sequence_len=128", "packing.pad_to_sequence_len=true")
        for word in ("--set", o)
    ]
    limit = 3 * 2**30

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    edit(project / "params.yaml", "batch_size: 2", "batch_size: 512")
    text = (project / "data" / "sums.jsonl").read_text()
    (project / "data" / "sums.jsonl").write_text(text * 200)
    done = subprocess.run(
        [*command, *words, "--set", "machine.micro_batch_size=512"],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "axolotl: memory ran out: weights take 0.00 GiB" in done.stderr
    assert "machine.micro_batch_size: 256 halves what activations take; machine.gradient_checkpointing: true leaves" in done.stderr
    assert "Traceback" not in done.stderr


def test_gptq_wants_its_package_and_a_base_that_has_it(project: Path, capfd):
    stage("train", "model.gptq=true")
    assert "model.gptq: the weights of ./model are not quantised, they are taken as they are" in capfd.readouterr().out
    config = json.loads((project / "model" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (project / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(MachineError, match=r"model: a gptq base wants the package gptqmodel; pip install 'axolotl\[gptq\]'"):
        stage("train", "model.gptq=true")


def test_embeddings_that_are_the_output_layer_train_and_merge_as_one(project: Path):
    config = json.loads((project / "model" / "config.json").read_text()) | {"tie_word_embeddings": True}
    (project / "model" / "config.json").write_text(json.dumps(config))
    weights = load_file(project / "model" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, project / "model" / "model.safetensors", metadata={"format": "pt"})
    options = ("adapter.lora_modules_to_save=[embed_tokens]",)
    stage("evaluate", *options)
    stage("merge", *options)
    found = metrics(project)
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] == pytest.approx(found["eval_loss_after"], rel=1e-5)
    assert report["before"]["loss"] == pytest.approx(found["eval_loss_before"], rel=1e-5)
    merged = load_model(project / "artifacts" / "merged", Machine(device="cpu"), vocabulary=1, packed=False)
    assert lora.tied(merged.model)
    base = load_model(project / "model", Machine(device="cpu"), vocabulary=1, packed=False)
    with torch.no_grad():
        wanted = lora.apply(base.model, project / "artifacts" / "adapter").eval()(IDS).logits
    assert torch.allclose(merged.model.eval()(IDS).logits, wanted, atol=1e-5)


def test_a_regular_expression_chooses_the_modules_of_an_adapter(project: Path):
    edit(project / "params.yaml", "  lora_target_linear: true\n", "")
    stage("train", r"adapter.lora_target_modules='model\.layers\.1\.self_attn\.(q|v)_proj'", "training.max_steps=1")
    weights = load_file(project / "artifacts" / "adapter" / "adapter_model.safetensors")
    names = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in weights}
    assert names == {"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}
    with pytest.raises(
        ModelError, match=r"the regular expression 'layers.9.\*' matches no module as a whole; one is called model\.layers\."
    ):
        stage("train", "adapter.lora_target_modules='layers.9.*'")
    with pytest.raises(ModelError, match=r"'q_\(' is not a regular expression"):
        stage("train", "adapter.lora_target_modules='q_('")


def test_unfrozen_parameters_are_trained_and_no_other(project: Path):
    whole(project)
    options = (r"training.unfrozen_parameters=['model\.layers\.1\.', lm_head]", "training.max_steps=2")
    stage("merge", *options)
    before, after = load_file(project / "model" / "model.safetensors"), load_file(project / "artifacts" / "merged" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(("model.layers.1.", "lm_head"))}
    assert metrics(project)["trained_parameters"] == sum(before[name].numel() for name in moved)
    with pytest.raises(ParamsError, match=r"training.unfrozen_parameters: 'layer_9' matches no parameter; one is called model\."):
        stage("train", "training.unfrozen_parameters=[layer_9]")
    with pytest.raises(ParamsError, match="names a range of rows; a parameter is trained as a whole or not at all"):
        stage("train", "training.unfrozen_parameters=['lm_head.weight[:32000]']")


def test_embeddings_grow_to_a_multiple_of_32_and_stay_so(project: Path):
    options = ("model.resize_token_embeddings_to_32x=true", "adapter.lora_modules_to_save=[embed_tokens, lm_head]")
    config = json.loads((project / "model" / "config.json").read_text())
    weights = load_file(project / "model" / "model.safetensors")
    rows = 430
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:rows].clone()
    save_file(weights, project / "model" / "model.safetensors", metadata={"format": "pt"})
    (project / "model" / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    stage("export", *options, "training.max_steps=1")
    assert load_file(project / "artifacts" / "export" / "model.safetensors")["model.embed_tokens.weight"].shape[0] == 448


def test_a_loss_that_stays_too_high_ends_the_run(project: Path):
    stage("pack")
    with pytest.raises(TrainError, match=r"step 2: the loss was above loss_watchdog_threshold 0.01 for 2 steps, it is \d"):
        stage("train", "training.loss_watchdog_threshold=0.01", "training.loss_watchdog_patience=2")
    stage("train", "training.loss_watchdog_threshold=100", "training.loss_watchdog_patience=1", "training.max_steps=3")


def test_evaluations_and_checkpoints_an_epoch(project: Path):
    stage("train", "training.evals_per_epoch=2", "tracking.saves_per_epoch=1", "packing.sample_packing=false", "training.num_epochs=1")
    steps = [int(line.split(",")[0]) for line in (project / "artifacts" / "plots" / "eval.csv").read_text().splitlines()[1:]]
    assert steps == [0, 8, 15]


def test_evaluate_takes_the_numbers_that_train_has_measured(project: Path, monkeypatch: pytest.MonkeyPatch):
    import axolotl_core.stages.evaluate

    stage("train", "training.max_steps=2")
    monkeypatch.setattr(axolotl_core.stages.evaluate, "evaluate_rows", None)  # whoever measures again, fails
    stage("evaluate", "training.max_steps=2")
    found = json.loads((project / "artifacts" / "metrics" / "held_out.json").read_text())
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    assert {when: report[when] for when in ("before", "after")} == found
    summary = json.loads((project / "artifacts" / "metrics" / "summary.json").read_text())
    assert summary["eval_loss"] == pytest.approx(found["after"]["loss"], rel=1e-3)
    assert summary["rows"] == metrics(project)["rows"]


def test_the_first_loss_is_that_of_the_first_step(project: Path):
    stage("train", "tracking.logging_steps=5", "training.max_steps=6")
    lines = (project / "artifacts" / "plots" / "train.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in lines] == [1, 5, 6]
    assert metrics(project)["loss_first"] == float(lines[0].split(",")[2])


def test_peft_opens_the_adapter_by_the_name_in_it(project: Path):
    from peft import AutoPeftModelForCausalLM

    stage("train", "training.max_steps=1")
    assert AutoPeftModelForCausalLM.from_pretrained("artifacts/adapter") is not None


def test_a_model_that_was_trained_whole_lies_on_the_disk_once(project: Path):
    whole(project)
    stage("export", "training.max_steps=1")
    files = [project / "artifacts" / name / "model.safetensors" for name in ("adapter", "merged", "export")]
    assert len({file.stat().st_ino for file in files}) == 1


def test_before_is_the_base_where_training_went_on_from_an_adapter(project: Path):
    stage("train")
    shutil.copytree(project / "artifacts" / "adapter", project / "first")
    stage("evaluate", "adapter.lora_model_dir=first", "training.max_steps=1")
    assert json.loads((project / "artifacts" / "metrics" / "held_out.json").read_text())["before"] is None
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["before"]["loss"] > metrics(project)["eval_loss_before"] + 1
