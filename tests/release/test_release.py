"""What leaves the house behaves as what was trained."""

import json
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from axolotl_core.adapters import lora
from axolotl_core.adapters import trained as trained_module
from axolotl_core.adapters.merge_lora import LoraMerge
from axolotl_core.adapters.trained import load_trained
from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.stats import StatCache
from axolotl_core.batches.rows import open_data, open_rows
from axolotl_core.errors import ArtifactError, ModelError
from axolotl_core.evaluation.evaluate import evaluate_rows
from axolotl_core.evaluation.replies import prompts
from axolotl_core.models import weights
from axolotl_core.models.load import Loaded
from axolotl_core.models.spread import dispatched
from axolotl_core.params.load import load
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.release.chat import READS, Sampling, open_chat
from axolotl_core.release.merge import merge
from axolotl_core.tokens.tokenizer import read_tokenizer
from tests.conftest import edit, stage

MODEL = Model(base_model="./model")
IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90]])


def chat(project: Path, which: str, **settings):
    settings = {"system": None, "raw": False, "sampling": Sampling(max_new_tokens=6)} | settings
    sampling = settings.pop("sampling")
    with manifest.opened(project / "artifacts", READS[which], digest_file) as artifacts:
        return open_chat(
            project,
            artifacts,
            StatCache(project / "stat.json"),
            which,
            Machine(device="cpu"),
            sampling,
            quantise=MODEL,
            datasets=load(project / "params.yaml").datasets,
            **settings,
        )


@pytest.mark.parametrize("adapter", ["lora", "null"])
def test_the_merged_model_has_the_logits_of_the_trained_one(project: Path, adapter: str):
    if adapter == "null":
        edit(project / "params.yaml", "  lora_r: 4\n  lora_dropout: 0.1\n  lora_target_linear: true\n", "")
    stage("export", f"adapter.adapter={adapter}")
    artifacts = project / "artifacts"
    trained = load_trained(artifacts / "adapter", project / "model", Machine(device="cpu"), vocabulary=1, packed=False, quantise=MODEL)
    trained = trained.model.eval()
    exported = AutoModelForCausalLM.from_pretrained(artifacts / "export")
    base = AutoModelForCausalLM.from_pretrained(project / "model")
    with torch.no_grad():
        assert torch.allclose(exported(IDS).logits, trained(IDS).logits, atol=1e-5)
        assert not torch.allclose(exported(IDS).logits, base(IDS).logits, atol=1e-2)
    assert exported.dtype == base.dtype
    assert AutoTokenizer.from_pretrained(artifacts / "export").chat_template

    card = (artifacts / "export" / "README.md").read_text()
    assert "| sums | `data/sums.jsonl` | alpaca |" in card
    assert ("A LoRA fine-tune, merged," if adapter == "lora" else "A full fine-tune") in card
    lineage = json.loads((artifacts / "export" / "lineage.json").read_text())
    assert lineage["adapter"]["inputs"]["packed"] == lineage["packed"]["output"]
    assert lineage["packed"]["inputs"]["tokens/sums"] == lineage["tokens/sums"]["output"]
    assert lineage["tokens/sums"]["inputs"]["raw/sums"] == lineage["raw/sums"]["output"]


def test_a_base_of_bf16_stays_bf16(project: Path):
    AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.bfloat16).save_pretrained(project / "model")
    stage("merge")
    assert AutoModelForCausalLM.from_pretrained(project / "artifacts" / "merged").dtype == torch.bfloat16


def test_added_tokens_have_rows_in_the_merged_model(project: Path):
    tokens = ", ".join(f"<t{i}>" for i in range(93))
    edit(project / "params.yaml", "tokenizer: {}", f"tokenizer: {{tokens: [{tokens}]}}")
    edit(project / "params.yaml", "lora_target_linear: true", "lora_target_linear: true\n  lora_modules_to_save: [embed_tokens, lm_head]")
    stage("export")
    model = AutoModelForCausalLM.from_pretrained(project / "artifacts" / "export")
    size = len(AutoTokenizer.from_pretrained(project / "artifacts" / "export"))
    assert model.get_input_embeddings().num_embeddings == size == 513


def test_evaluate_reports_before_and_after_overall_and_per_data_set(project: Path):
    stage("evaluate")
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] < report["before"]["loss"]
    both = report["after"]["datasets"]
    assert set(both) == {"sums", "talks"}
    assert sum(one["tokens"] for one in both.values()) == report["after"]["tokens"]
    assert set(report["replies"][0]) == {"dataset", "prompt", "expected", "before", "after"}
    train = json.loads((project / "artifacts" / "metrics" / "train.json").read_text())
    assert train["eval_loss_after"] == pytest.approx(report["after"]["loss"], rel=1e-4)
    assert train["eval_loss_before"] == pytest.approx(report["before"]["loss"], rel=1e-4)


def test_a_model_trained_whole_is_evaluated_against_its_base(project: Path):
    edit(project / "params.yaml", "  adapter: lora\n  lora_r: 4\n  lora_dropout: 0.1\n  lora_target_linear: true\n", "  adapter:\n")
    stage("evaluate")
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    train = json.loads((project / "artifacts" / "metrics" / "train.json").read_text())
    assert train["eval_loss_before"] == pytest.approx(report["before"]["loss"], rel=1e-4)
    assert train["eval_loss_after"] == pytest.approx(report["after"]["loss"], rel=1e-4)


@pytest.mark.parametrize("kind", ["lora", "null"])
def test_a_model_that_does_not_fit_one_place_says_the_same(project: Path, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    if kind == "null":
        edit(project / "params.yaml", "  lora_r: 4\n  lora_dropout: 0.1\n  lora_target_linear: true\n", "")
    stage("merge", f"adapter.adapter={kind}")
    stage("evaluate", f"adapter.adapter={kind}", "packing.val_set_size=4")
    report = project / "artifacts" / "evaluation" / "report.json"
    replies, loss = json.loads(report.read_text())["replies"], held_out_loss(project, MODEL)
    said = {which: "".join(chat(project, which).say("Name colour 4.")) for which in READS}

    def split_up(loaded: Loaded) -> Loaded:
        own = "base_model.model." if hasattr(loaded.model, "peft_config") else ""
        here = dict.fromkeys((f"{own}model.{name}" for name in ("embed_tokens", "rotary_emb", "layers.0")), "cpu")
        elsewhere = dict.fromkeys((f"{own}{name}" for name in ("model.layers.1", "model.norm", "lm_head")), "disk")
        return dispatched(loaded, here | elsewhere, offload_dir=tempfile.mkdtemp(dir=tmp_path))

    monkeypatch.setattr(trained_module, "needs_spreading", lambda *_: True)
    monkeypatch.setattr(trained_module, "spread", split_up)
    told: list[str] = []
    assert {which: "".join(chat(project, which, tell=told.append).say("Name colour 4.")) for which in READS} == said
    assert told.count("the model does not fit one GPU, it is on cpu, disk") == 3
    stage("evaluate", f"adapter.adapter={kind}", "packing.val_set_size=4", force=True)
    assert json.loads(report.read_text())["replies"] == replies
    assert held_out_loss(project, MODEL) == pytest.approx(loss, rel=1e-5)


def held_out_loss(project: Path, quantise: Model) -> float:
    """Of the trained model, loaded anew, on the validation rows."""
    artifacts = project / "artifacts"
    loaded = load_trained(artifacts / "adapter", project / "model", Machine(device="cpu"), vocabulary=1, packed=True, quantise=quantise)
    data = open_data(artifacts / "packed", artifacts / "tokens", read_tokenizer(artifacts / "tokenizer"))
    return evaluate_rows(replace(loaded, model=loaded.model.eval()), data.validation, data.names, 1, title="")["loss"]


@pytest.mark.parametrize("saved", ["", "[lm_head, embed_tokens]"])
def test_a_quantised_base_computes_as_it_did_in_training(project: Path, saved: str):
    options = ["adapter.adapter=qlora", "model.load_in_4bit=true", "training.bf16=true", f"adapter.lora_modules_to_save={saved or '[]'}"]
    stage("evaluate", *options)
    artifacts = project / "artifacts"
    quantise = MODEL.model_copy(update={"load_in_4bit": True})
    loaded = load_trained(artifacts / "adapter", project / "model", Machine(device="cpu"), vocabulary=1, packed=True, quantise=quantise)
    dtypes = {module.compute_dtype for module in loaded.model.modules() if hasattr(module, "compute_dtype")}
    assert dtypes == {torch.bfloat16}
    trained = json.loads((artifacts / "metrics" / "train.json").read_text())
    assert held_out_loss(project, quantise) == pytest.approx(trained["eval_loss_after"], rel=5e-3)


def test_without_held_out_rows_there_are_replies_only(project: Path, capsys):
    stage("evaluate", "packing.val_set_size=0")
    report = json.loads((project / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["after"]["loss"] is None
    assert len(report["replies"]) == 1
    assert "no validation rows (packing.val_set_size), replies only" in capsys.readouterr().out


def test_prompts_are_taken_from_the_data_sets_in_turns(project: Path):
    stage("pack")
    artifacts = project / "artifacts"
    facts = json.loads((artifacts / "packed" / "manifest.json").read_text())
    rows = open_rows(artifacts / "packed", "train", artifacts / "tokens", facts, 0)
    asked = prompts(rows, 4)
    assert [p.dataset for p in asked] == [0, 1, 0, 1]
    tokenizer = AutoTokenizer.from_pretrained(artifacts / "tokenizer")
    assert tokenizer.decode(asked[0].ids).endswith("### Response:\n")
    assert tokenizer.decode(asked[0].expected).startswith("The sum is")


def test_eager_and_sdpa_train_to_the_same_losses(project: Path):
    logs = []
    for flag in ("sdp_attention", "eager_attention"):
        stage("train", f"machine.{flag}=true", force=True)
        logs.append(json.loads((project / "artifacts" / "metrics" / "train.json").read_text()))
    assert [log["attention"] for log in logs] == ["sdpa", "eager"]
    assert logs[0]["eval_loss_after"] == pytest.approx(logs[1]["eval_loss_after"], rel=1e-3)


def test_micro_batches_and_gradient_checkpointing_change_no_loss(project: Path):
    logs = []
    for options in ((), ("machine.micro_batch_size=2",), ("machine.gradient_checkpointing=true",)):
        stage("train", "adapter.lora_dropout=0.0", *options, force=True)
        logs.append(json.loads((project / "artifacts" / "metrics" / "train.json").read_text())["eval_loss_after"])
    assert logs[1:] == [pytest.approx(logs[0], rel=1e-4)] * 2


def test_the_chat_remembers_and_streams(project: Path):
    stage("train")
    talk = chat(project, "adapter", system="Be brief.")
    first = list(talk.say("Hi"))
    assert len(first) >= 1
    list(talk.say("Again"))
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert talk.messages[2]["content"] == "".join(first)


def test_adapter_and_merged_model_say_the_same_and_the_base_another_thing(project: Path):
    stage("merge")
    said = {which: "".join(chat(project, which).say("Name colour 4.")) for which in ("adapter", "merged", "base")}
    assert said["adapter"] == said["merged"] != said["base"]


def test_sampling_is_a_function_of_the_seed(project: Path):
    stage("train")
    hot = {seed: "".join(chat(project, "adapter", sampling=Sampling(8, 5.0, seed=seed)).say("Hi")) for seed in (1, 2)}
    assert hot[1] == "".join(chat(project, "adapter", sampling=Sampling(8, 5.0, seed=1)).say("Hi"))
    assert hot[1] != hot[2]


def test_a_model_that_was_not_trained_yet_is_told(project: Path):
    with pytest.raises(ArtifactError, match="artifacts/tokenizer: is missing; run the stage that makes it"):
        chat(project, "adapter")


def test_a_tokenizer_without_a_template_wants_raw(project: Path):
    (project / "model" / "chat_template.jinja").unlink(missing_ok=True)
    stage("train")
    with pytest.raises(ModelError, match="the tokenizer has no chat template; use --raw"):
        chat(project, "adapter")
    assert "".join(chat(project, "adapter", raw=True).say("Hi")) is not None


def test_a_reply_that_fails_is_told_and_does_not_hang(project: Path, monkeypatch: pytest.MonkeyPatch):
    stage("train")
    talk = chat(project, "adapter")

    def out_of_memory(**settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(talk.model, "generate", out_of_memory)
    with pytest.raises(ModelError, match="no reply could be made: out of memory"):
        list(talk.say("Hi"))


def test_a_prompt_on_standard_input_is_answered(project: Path, axolotl):
    axolotl("stage", "train", cwd=project)
    done = axolotl("inference", "--max-new-tokens", "5", cwd=project, input="Name colour 1.\n", env=dict(os.environ))
    assert done.stdout.strip()
    sums = (
        "the chat template is the tokenizer's own, but sums was trained as 'alpaca', which looks different; --raw sends a prompt as it is"
    )
    assert done.stderr == sums + "\n", "and not of talks, which is written by the same template"


def trained_adapter(project: Path) -> Path:
    stage("train")
    return project / "artifacts" / "adapter"


@pytest.mark.parametrize("rate", ["1e-2", "1e-6"])
def test_a_merge_that_forgets_the_adapter_is_found_however_little_was_trained(project: Path, rate: str, monkeypatch: pytest.MonkeyPatch):
    stage("train", f"training.learning_rate={rate}")
    monkeypatch.setattr(LoraMerge, "changed", lambda self, name, weight: weight)
    with pytest.raises(ModelError, match="the merged model as it was written has other logits than base and adapter, by .* moved them"):
        stage("merge", f"training.learning_rate={rate}")
    assert not (project / "artifacts" / "merged").exists()


def test_a_merge_of_sixteen_bits_rounds_once(project: Path, capsys):
    AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.bfloat16).save_pretrained(project / "model")
    stage("merge")
    assert re.search(r"merged shard by shard, logits as base and adapter to .* \(training moved them by .*\)", capsys.readouterr().out)
    base = AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.float32)
    exact = lora.apply(base, project / "artifacts" / "adapter").merge_and_unload().state_dict()
    merged = load_file(project / "artifacts" / "merged" / "model.safetensors")
    assert all(torch.equal(weight, exact[name].to(torch.bfloat16)) for name, weight in merged.items())


def test_merging_goes_shard_by_shard_and_keeps_shards_and_dtype(project: Path, capsys):
    model = AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.bfloat16)
    model.save_pretrained(project / "model", max_shard_size="40KB")
    (project / "model" / "model.safetensors").unlink()
    shards = sorted(path.name for path in (project / "model").glob("*.safetensors"))
    assert len(shards) > 2
    stage("merge")
    assert "merged shard by shard" in capsys.readouterr().out
    merged = project / "artifacts" / "merged"
    assert sorted(path.name for path in merged.glob("*.safetensors")) == shards
    loaded = AutoModelForCausalLM.from_pretrained(merged)
    assert loaded.dtype == torch.bfloat16
    wanted = lora.apply(AutoModelForCausalLM.from_pretrained(project / "model", dtype=torch.float32), project / "artifacts" / "adapter")
    whole = wanted.merge_and_unload().state_dict()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, whole[name].to(torch.bfloat16)), "rounded once, from the sum in fp32"


def test_merging_reads_one_shard_at_a_time(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    AutoModelForCausalLM.from_pretrained(project / "model").save_pretrained(project / "model", max_shard_size="40KB")
    (project / "model" / "model.safetensors").unlink()
    adapter = trained_adapter(project)
    alive: list[int] = []
    held = 0
    plain = weights.save_file

    def watched(shard: dict, *arguments, **settings) -> None:
        nonlocal held
        held = max(held, sum(t.numel() * t.element_size() for t in shard.values()))
        alive.append(len(shard))
        plain(shard, *arguments, **settings)

    monkeypatch.setattr(weights, "save_file", watched)
    (tmp_path / "out").mkdir()
    merge(adapter, project / "model", tmp_path / "out", vocabulary=1)
    largest = max(path.stat().st_size for path in (project / "model").glob("*.safetensors"))
    assert len(alive) > 2
    assert held <= largest


def test_an_adapter_that_does_not_fit_is_not_merged(project: Path, tmp_path: Path):
    adapter = trained_adapter(project)
    file = adapter / "adapter_model.safetensors"
    plain = load_file(file)
    first = sorted(plain)[0]
    cases = {
        "it has no base_model": {name: t for name, t in plain.items() if name != first},
        r"is \(5, .*\), wanted \(4, |is \(.*, 5\), wanted": {**plain, first: torch.zeros(5, plain[first].shape[1])},
        "the base model, which has no layer for": {**plain, first.replace("layers.0", "layers.9"): plain[first].clone()},
        "merging .*NaNs detected": {**plain, first: torch.full_like(plain[first], float("nan"))},
    }
    for number, (message, spoiled) in enumerate(cases.items()):
        save_file(spoiled, file)
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ModelError, match=message):
            merge(adapter, project / "model", tmp_path / str(number), vocabulary=1)
    file.unlink()
    with pytest.raises(ArtifactError, match="artifacts/adapter"):
        stage("merge", only=True)


def test_a_base_that_is_stored_quantised_is_no_base_to_merge_into(project: Path, tmp_path: Path):
    adapter = trained_adapter(project)
    config = json.loads((project / "model" / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (project / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"the base is stored quantised \(gptq\), so there are no full weights to merge into; use the adap"
    ):
        merge(adapter, project / "model", tmp_path, vocabulary=1)
