"""Chat templates by name, reasoning, property mappings, and which ends of turns are trained."""

from pathlib import Path

import pytest

from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Vocabulary
from axolotl_core.prompts.resolve import format_of
from axolotl_core.prompts.template import ChatTemplate
from axolotl_core.prompts.templates import FOLDER, names, shipped, template_of

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]
WRITTEN = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n",
    "falcon_h1": "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n",
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello!<|eot_id|>⟧"
    ),
    "llama4": (
        "<s><|header_start|>system<|header_end|>\n\nBe kind.<|eot|><|header_start|>user<|header_end|>\n\nHi<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\n⟦Hello!<|eot|>⟧"
    ),
    "gemma3": "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello!<end_of_turn>⟧\n",
    "alpaca": "<s>Be kind.\n\n### Instruction:\nHi\n\n### Response:\n⟦Hello!</s>⟧",
    "phi_3": "<s><|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n⟦Hello!<|end|>⟧\n",
    "phi_35": "<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n⟦Hello!<|end|>⟧\n",
    "cohere": (
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be kind.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi"
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>⟦Hello!<|END_OF_TURN_TOKEN|>⟧"
    ),
    "deepseek_v2": "<s>Be kind.\n\n<｜User｜>Hi<｜Assistant｜>⟦Hello!</s>⟧",
    "deepseek_v3": "<s>Be kind.<｜User｜>Hi<｜Assistant｜>⟦Hello!<｜end▁of▁sentence｜>⟧",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n[|assistant|]⟦Hello![|endofturn|]⟧\n",
    "metharme": "<s><|system|>Be kind.<|user|>Hi<|model|>⟦Hello!</s>⟧",
    "qwen_25": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n",
    "gemma": "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello!<end_of_turn>⟧\n",
    "mistral_v1": "<s> [INST] Hi [/INST]⟦ Hello!</s>⟧",
    "mistral_v2v3": "<s>[INST] Hi[/INST]⟦ Hello!</s>⟧",
    "mistral_v3_tekken": "<s>[INST]Hi[/INST]⟦Hello!</s>⟧",
}
"""Name → the first turns as they are written and trained. The last four have no system role."""
ADDED = ChatTemplate("").added


def marked(messages: list[dict], row: dict | None = None, **data) -> str:
    format = format_of(Dataset(path="x", type="chat_template", **data), Path())
    assert format.fit is not None
    import re

    ends = re.compile(r"<\|[^>]*\|>|</?s>|<end_of_turn>|\[\|endofturn\|\]|<｜[^｜]*｜>")
    return format.fit(Vocabulary(Path(), lambda _: True, 9, ends, SPECIAL)).read({"messages": messages, **(row or {})}).marked


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_template_by_name_writes_what_its_models_read(name: str):
    no_system = name in ("gemma", "mistral_v1", "mistral_v2v3", "mistral_v3_tekken")
    assert marked(TALK[1:3] if no_system else TALK[:3], chat_template=name) == WRITTEN[name]
    if no_system:
        with pytest.raises(DataError, match="take turns|no system role"):
            marked(TALK[:3], chat_template=name)
        assert marked(TALK[:3], chat_template=name, drop_system_message=True) == WRITTEN[name]


def test_every_template_is_valid_and_has_an_expectation():
    assert {file.stem for file in FOLDER.glob("*.jinja")} == {*WRITTEN, "qwen3"}
    for name in names():
        ChatTemplate(shipped(name), SPECIAL).render(TALK[1:])


def test_qwen3_keeps_the_reasoning_of_the_last_answer_only():
    talk = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2", "reasoning_content": "Easy."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "Again."},
    ]
    first = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧\n<|im_start|>user\n2+2?<|im_end|>\n"
    last = "<|im_start|>assistant\n⟦<think>\nAgain.\n</think>\n\n4<|im_end|>⟧\n"
    assert marked(talk, chat_template="qwen3") == first + last


def test_reasoning_by_its_field_by_a_mapping_or_split_from_the_answer():
    wanted = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦<think>\nEasy.\n</think>\n\n2<|im_end|>⟧\n"
    ask = {"role": "user", "content": "1+1?"}
    named = [ask, {"role": "assistant", "content": "2", "thought": "Easy."}]
    assert marked(named, chat_template="qwen3", field_thinking="thought") == wanted
    assert marked(named, chat_template="qwen3", message_property_mappings={"reasoning_content": "thought"}) == wanted
    inside = [ask, {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n2"}]
    assert marked(inside, chat_template="qwen3", split_thinking=True) == wanted
    own = "{% for m in messages %}[{{ m.role }}]{{ m.thinking or '' }}|{{ m.content }}{% endfor %}"
    settings = {"chat_template_jinja": own, "template_thinking_key": "thinking", "split_thinking": True}
    assert marked(inside, **settings) == "[user]|1+1?[assistant]⟦Easy.|2⟧"


def test_roles_and_contents_by_a_mapping_and_tools_by_their_field():
    talk = [{"who": "user", "says": "Hi"}, {"who": "assistant", "says": "Hello!"}]
    mapping = {"role": "who", "content": "says"}
    assert marked(talk, chat_template="chatml", message_property_mappings=mapping).endswith("assistant\n⟦Hello!<|im_end|>⟧\n")
    shown = marked(TALK[1:3], {"functions": '[{"name": "f"}]'}, chat_template="qwen3", field_tools="functions")
    assert '<tools>\n{"name": "f"}\n</tools>' in shown


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, "user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"),
        ({"train_on_eos": "turn"}, "user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"),
        ({"train_on_eot": "all"}, "user\nHi⟦<|im_end|>⟧\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye⟦<|im_end|>⟧\n"),
        ({"train_on_eos": "last"}, "user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!⟧<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"),
        ({"train_on_eot": False}, "user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!⟧<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"),
    ],
)
def test_which_ends_of_turns_are_trained(settings: dict, wanted: str):
    ends = "⟦See you.⟧<|im_end|>\n" if settings.get("train_on_eot") is False else "⟦See you.<|im_end|>⟧\n"
    assert marked(TALK[1:], chat_template="chatml", **settings) == "<|im_start|>" + wanted + "<|im_start|>assistant\n" + ends


def test_the_fallback_is_taken_where_the_tokenizer_has_no_template(tmp_path: Path):
    data = Dataset(path="x", type="chat_template", chat_template="tokenizer_default_fallback_chatml")
    assert template_of(data, tmp_path).fallback == shipped("chatml")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    format = format_of(data, tmp_path)
    assert format.fit is not None
    read = format.fit(Vocabulary(tmp_path, lambda _: True, 9, ADDED, SPECIAL)).read({"messages": TALK[1:3]})
    assert read.marked.startswith("<|im_start|>user\nHi")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"chat_template": "chatlm"}, "no such file: chatlm; .* did you mean 'chatml'"),
        ({"chat_template_jinja": "none.jinja"}, "chat_template_jinja: no such file: none.jinja; wanted Jinja text or a Jinja file"),
        ({"chat_template_jinja": "{% for %}"}, "the chat template is not valid Jinja"),
    ],
)
def test_a_template_that_is_none_is_told(settings: dict, told: str):
    with pytest.raises(ParamsError, match=told):
        format_of(Dataset(path="x", type="chat_template", **settings), Path())


CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral_v3_tekken", "gemma3", "deepseek_v2"])
def test_a_template_that_drops_tool_calls_is_refused(name: str):
    with pytest.raises(DataError, match="the chat template does not write the tool calls of message 2, from 'assistant'"):
        marked([TALK[1], CALL, TALK[1]][:2], chat_template=name)


def test_what_a_tool_said_is_in_the_text_or_refused():
    talk = [TALK[1], CALL, {"role": "tool", "content": "7"}, TALK[2]]
    assert "<tool_response>\n7\n</tool_response>" in marked(talk, chat_template="qwen3")
    with pytest.raises(DataError, match="does not write the"):
        marked(talk, chat_template="deepseek_v2")


def test_what_a_message_says_of_itself_is_more_than_its_role():
    talk = [{**TALK[1], "train": True}, {**TALK[2], "train": False}, TALK[3], TALK[4]]
    text = marked(talk, chat_template="chatml", message_field_training="train", roles_to_train=[])
    assert text.count("⟦") == 1
    assert "user\n⟦Hi<|im_end|>⟧" in text
