"""A model is asked as it was trained, and stops where it was trained to."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from axolotl_core.errors import ParamsError
from axolotl_core.params.load import load
from axolotl_core.release.prompting import prompting_of
from axolotl_core.tokens.tokenizer import read_tokenizer
from tests.conftest import TEMPLATE, edit, stage, write_jsonl

OWN = (
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
ENDED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|turn|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
CHATS = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A newt."}]}] * 4
ONE = "  chats:\n    path: data/chats.jsonl\n    type: chat_template\n"


@pytest.fixture
def chats(project: Path) -> Path:
    """One dataset of type chat_template; a full fine-tune that learns it by heart."""
    write_jsonl(project / "data" / "chats.jsonl", CHATS)
    text = (project / "params.yaml").read_text()
    begin, end = text.index("  sums:"), text.index("tokenizer:")
    text = text[:begin] + ONE + text[end:]
    text = text.replace("  adapter: lora\n  lora_r: 4\n  lora_dropout: 0.1\n  lora_target_linear: true\n", "  adapter:\n")
    text = (
        text.replace("val_set_size: 6", "val_set_size: 1")
        .replace("num_epochs: 2", "num_epochs: 40")
        .replace("1e-2", "3e-3")
        .replace("max_new_tokens: 4", "max_new_tokens: 30")
    )
    (project / "params.yaml").write_text(text)
    return project


def retokenized(project: Path, template: str, *tokens: str, ends: list[str] | None = None) -> None:
    """Give the base a chat template, more tokens, and several ends of sequence in its generation_config.json."""
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(project / "model")
    model = AutoModelForCausalLM.from_pretrained(project / "model")
    if ends:
        model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(end) for end in ends]
    model.save_pretrained(project / "model")


def reply(folder: Path) -> str:
    """What transformers makes of the export, all of it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(CHATS[0]["messages"][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])


def test_replies_stop_at_every_end_that_the_base_has(chats: Path, axolotl):
    retokenized(chats, ENDED, "<|turn|>", ends=["<|im_end|>", "<|turn|>"])
    stage("export")
    stage("evaluate")
    report = json.loads((chats / "artifacts" / "evaluation" / "report.json").read_text())
    assert report["replies"][0]["after"] == "A newt."
    assert axolotl("inference", "--max-new-tokens", "30", cwd=chats, input="Who?").stdout == "A newt.\n"
    assert reply(chats / "artifacts" / "export") == "A newt.<|turn|>"


def test_replies_stop_at_the_turn_that_the_template_closes(chats: Path, axolotl):
    retokenized(chats, ENDED, "<|turn|>")
    stage("export")
    assert axolotl("inference", "--max-new-tokens", "30", cwd=chats, input="Who?").stdout == "A newt.\n"
    assert reply(chats / "artifacts" / "export") == "A newt.<|turn|>"


def test_the_export_has_the_special_tokens_of_its_tokenizer(chats: Path):
    retokenized(chats, ENDED, "<|turn|>", "<|pad|>")
    edit(chats / "params.yaml", "tokenizer: {}", "tokenizer: {special_tokens: {eos_token: <|turn|>, pad_token: <|pad|>}}")
    stage("export")
    tokenizer = AutoTokenizer.from_pretrained(chats / "artifacts" / "export")
    config, generation = (json.loads((chats / "artifacts" / "export" / f"{n}.json").read_text()) for n in ("config", "generation_config"))
    assert (config["eos_token_id"], config["pad_token_id"]) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert generation["eos_token_id"][0] == tokenizer.convert_tokens_to_ids("<|turn|>")
    assert generation["pad_token_id"] == tokenizer.convert_tokens_to_ids("<|pad|>")
    assert reply(chats / "artifacts" / "export") == "A newt.<|turn|>"


def test_a_template_of_the_data_is_asked_with_and_exported(chats: Path, axolotl, capsys):
    (chats / "own.jinja").write_text(OWN, encoding="utf-8")
    edit(chats / "params.yaml", ONE, ONE + "    chat_template: own.jinja\n")
    stage("export")
    assert (chats / "artifacts" / "export" / "chat_template.jinja").read_text() == OWN
    done = axolotl("inference", "--max-new-tokens", "30", cwd=chats, input="Who?")
    assert (done.stdout, done.stderr) == ("A newt.\n", "")
    assert reply(chats / "artifacts" / "export") == "A newt.<|im_end|>"
    assert stage("export") == 0
    (chats / "own.jinja").write_text(OWN.replace("###", "##"), encoding="utf-8")
    assert stage("export") == 5, "tokenize, pack, train, merge, export"


def notes(project: Path, **datasets: str) -> list[str]:
    stage("fetch-tokenizer")
    text = "".join(f"  {name}:\n    path: x\n    {options}\n" for name, options in datasets.items())
    (project / "other.yaml").write_text(f"datasets:\n{text}model:\n  base_model: ./model\n")
    found = prompting_of(load(project / "other.yaml").datasets, read_tokenizer(project / "artifacts" / "tokenizer"), project)
    return list(found.notes)


def test_data_that_was_not_written_by_the_template_is_named(project: Path):
    (project / "own.jinja").write_text(OWN, encoding="utf-8")
    chatml = "the chat template is the tokenizer's own, but "
    assert notes(project, a="type: chat_template") == []
    assert notes(project, a="type: sharegpt\n    conversation: chatml", b="type: alpaca:chatml") == []
    assert notes(project, a="type: sharegpt.load_role\n    conversation: chatml") == []
    prompt = "{format: x, field_output: y, no_input_format: '<|im_start|>user\\n{instruction}<|im_end|>\\n<|im_start|>assistant\\n'}"
    assert notes(project, a=f"type: {prompt}".replace("'", '"')) == []
    assert notes(project, a="type: alpaca") == [chatml + "a was trained as 'alpaca', which looks different"]
    assert notes(project, a="type: sharegpt") == [chatml + "a was trained as 'sharegpt', which looks different"]
    assert notes(project, a="type: completion") == [chatml + "a was trained as 'completion', which looks different"]
    both = notes(project, a="type: chat_template", b="type: chat_template\n    chat_template: own.jinja")
    assert both == [chatml + "b was trained as 'chat_template' with own.jinja, which looks different"]
    own = notes(project, a="type: chat_template\n    chat_template: own.jinja", b="type: alpaca")
    assert own == ["the chat template is own.jinja, but b was trained as 'alpaca', which looks different"]


def test_a_mismatch_is_in_the_summary_and_in_the_card(project: Path, capsys):
    stage("export")
    note = "the chat template is the tokenizer's own, but sums was trained as 'alpaca', which looks different"
    assert f"\n  {note}\n" in capsys.readouterr().out
    assert f"Note: {note}." in (project / "artifacts" / "export" / "README.md").read_text()
    assert (project / "artifacts" / "export" / "chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize(
    ("tokenizer", "adapter", "wanted"),
    [
        ("tokens: [<a>, <b>]", "", r"adds '<a>', '<b>', and embed_tokens and lm_head would stay frozen.*: \[embed_tokens, lm_head\], or"),
        ("tokens: [<a>]", "lora_modules_to_save: [embed_tokens]", "adds '<a>', and lm_head would stay frozen"),
        ("special_tokens: {eos_token: <a>}", "", "adds '<a>', and embed_tokens and lm_head would stay frozen"),
        ("special_tokens: {pad_token: <a>}", "", None),
        ("special_tokens: {bos_token: <|im_start|>}", "", None),
        ("tokens: [<a>]", "lora_modules_to_save: [embed_tokens, lm_head]", None),
    ],
)
def test_new_tokens_that_nothing_would_train_are_refused(project: Path, tokenizer: str, adapter: str, wanted: str | None):
    edit(project / "params.yaml", "tokenizer: {}", f"tokenizer: {{{tokenizer}}}")
    edit(project / "params.yaml", "lora_target_linear: true\n", f"lora_target_linear: true\n  {adapter}\n")
    if wanted is None:
        stage("train", "training.max_steps=1")
        return
    with pytest.raises(ParamsError, match=f"adapter.lora_modules_to_save: the section tokenizer {wanted}"):
        stage("train", "training.max_steps=1")
