"""Rows → text: what is trained, what closes a turn, and what is said of rows that do not fit."""

import re

import pytest

from axolotl_core import lookup
from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.datasets import Dataset, UserPrompt
from axolotl_core.prompts.example import Vocabulary
from axolotl_core.prompts.resolve import FORMATS, format_of, read

WITHOUT = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


def marked(row: dict, **data) -> str:
    return read(format_of(Dataset(path="x", **{"type": "alpaca", **data})), row).marked


def talk(*turns: tuple[str, str]) -> dict:
    return {"conversations": [{"from": role, "value": value} for role, value in turns]}


def test_alpaca_is_the_stanford_prompt():
    assert marked({"instruction": "Add.", "output": "2"}) == f"{WITHOUT}### Instruction:\nAdd.\n\n### Response:\n⟦2◼⟧"


def test_alpaca_without_an_answer_trains_nothing():
    assert "⟦" not in marked({"instruction": "Add.", "output": None})


def test_alpaca_chatml_closes_the_answer_once():
    for output in ("2", "2<|im_end|>"):
        assert marked({"instruction": "Add.", "output": output}, type="alpaca:chatml").endswith("assistant\n⟦2<|im_end|>⟧")


def test_braces_in_data_are_text():
    assert "{x}" in marked({"instruction": "{x}", "output": "{y}"})


def test_vicuna_trains_the_answer_and_its_end_but_not_the_role():
    assert marked(talk(("human", "Hi"), ("gpt", "Hello")), type="sharegpt").endswith("questions. USER: Hi ASSISTANT:⟦ Hello◼⟧")


def test_chatml_has_one_newline_and_trains_through_im_end():
    row = talk(("system", "S"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d"))
    assert marked(row, type="sharegpt", conversation="chatml") == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>⟧\n"
    )


def test_a_message_of_another_role_in_front_is_left_out():
    assert "USER: a ASSISTANT:⟦ b◼⟧" in marked(talk(("tool", "x"), ("human", "a"), ("gpt", "b")), type="sharegpt")


def test_roles_can_be_renamed():
    row = talk(("user", "a"), ("bot", "b"))
    assert "⟦ b◼⟧" in marked(row, type="sharegpt", field_human="user", field_model="bot")


def test_a_system_prompt_of_the_yaml_stands_in_for_a_missing_one():
    prompt = UserPrompt(
        system_prompt="Be brief.", system_format="[{system}] ", format="{instruction}|{input}|", no_input_format="{instruction}>"
    )
    row = {"instruction": "q", "input": "i", "output": "a", "system": None}
    assert marked(row, type=prompt) == "[Be brief.] q|i|⟦a◼⟧"
    assert marked({"instruction": "q", "output": "a", "system": "S"}, type=prompt) == "[S] q>⟦a◼⟧"


@pytest.mark.parametrize(
    ("row", "data", "told"),
    [
        (
            {"question": "a", "answer": "b"},
            {},
            "format alpaca wants the field 'instruction', the row has question, answer; a prompt of your own can be written as a mapping",
        ),
        (
            talk(("human", "a"), ("gpt", "b")),
            {},
            "format alpaca wants the field 'instruction', the row has conversations; the format 'llama2_chat' or 'pygmalion' or ",
        ),
        ({}, {"type": "completion"}, "format completion wants the field 'text', the row has no field at all; a prompt of your own"),
        ({"instruction": None, "output": "x"}, {}, "field 'instruction' is null, wanted text"),
        ({"instruction": ["x"], "output": "x"}, {}, "field 'instruction' is a list, wanted text"),
        ({"instruction": {"x": 1}, "output": "x"}, {}, "field 'instruction' is an object, wanted text"),
        (
            talk(("human", "a"), ("bot", "b")),
            {"type": "sharegpt"},
            "a message is from 'bot', wanted human or gpt (field_human, field_model rename them)",
        ),
        (talk(("user", "a"), ("gpt", "b")), {"type": "sharegpt"}, "a message is from 'user', wanted human or gpt"),
        (talk(("human", "a")), {"type": "sharegpt"}, "field 'conversations' has 1 messages, wanted at least 2"),
        ({"conversations": "x"}, {"type": "sharegpt"}, 'field \'conversations\' is text, wanted a list of {"from", "value"}'),
    ],
)
def test_a_row_that_does_not_fit_says_what_it_has_and_who_would_read_it(row: dict, data: dict, told: str):
    with pytest.raises(DataError) as caught:
        marked(row, **data)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            {"type": "alpacca"},
            "no format is called 'alpacca'; did you mean 'alpaca'?; there are alpaca, alpaca_chat, alpaca_instruct, alpaca_w_system",
        ),
        ({"type": "alpaca:caht"}, "no prompt style is called 'caht'; did you mean 'chat'?; there are instruct, chat, chatml"),
        ({"type": "alpaca.load_x"}, "the format alpaca has no 'load_x'; did you mean 'load'?; it has load"),
        ({"type": "completion:chat"}, "completion has no style, got 'completion:chat'; remove ':chat'"),
        ({"type": "sharegpt:x"}, "sharegpt has no style, got 'sharegpt:x'; choose the template with `conversation`"),
        (
            {"type": "sharegpt", "conversation": "chatmll"},
            "no conversation is called 'chatmll'; did you mean 'chatml'?; there are airoboros_v1, airoboros_v2, alpaca, aquila-chat",
        ),
        ({"type": "user_defined"}, "user_defined is written as a mapping under `type:`, with field_instruction, format and so on"),
        (
            {"type": UserPrompt(format="{question}")},
            "format: got the place {question}, wanted {input} and {instruction}; a literal brace is written twice",
        ),
        (
            {"type": UserPrompt(no_input_format="{")},
            "no_input_format: Single '{' encountered in format string; a literal brace is written twice, {{ or }}",
        ),
    ],
)
def test_a_type_that_does_not_exist_is_told_before_any_row(data: dict, told: str):
    with pytest.raises(ParamsError) as caught:
        format_of(Dataset(path="x", **data))
    assert str(caught.value).startswith(told)


def test_the_folder_is_the_table():
    for name in lookup.names(FORMATS):
        module = lookup.find(FORMATS, name, "format")
        assert [f for f in vars(module) if f == "load" or f.startswith("load_")], name
        assert isinstance(module.COLUMNS, tuple)
        assert ">>>" in module.__doc__, f"{name} shows no row in its docstring"


def test_roles_and_prefixes_that_are_trained_can_be_chosen():
    row = talk(("system", "S"), ("human", "a"), ("gpt", "b"))
    assert marked(row, type="sharegpt", train_role_prefix=True) == "S USER: a ⟦ASSISTANT:⟧⟦ b◼⟧"
    assert marked(row, type="sharegpt", roles_to_train=["human", "system"]) == "⟦S ⟧USER:⟦ a ⟧ASSISTANT: b◼"
    with pytest.raises(ParamsError, match=r"roles_to_train: no role is called 'gtp'; did you mean 'gpt'\?; there are user"):
        marked(row, type="sharegpt", roles_to_train=["gtp"])


def test_llama_2_begins_every_pair_with_the_tokenizers_bos():
    format = format_of(Dataset(path="x", type="sharegpt", conversation="llama-2"))
    example = format.read(talk(("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")))
    assert example.marked == "[INST] a [/INST]⟦ b ◼⟧[INST] c [/INST]⟦ d ◼⟧"
    assert [segment.text for segment in example.segments if segment.begin] == ["[INST]"]


def test_a_system_text_goes_into_the_first_turn_of_the_user_wherever_that_is():
    row = talk(("system", "S"), ("gpt", "Hi"), ("human", "a"), ("gpt", "b"))
    assert marked(row, type="sharegpt", conversation="mistral") == "[/INST]⟦ Hi◼⟧[INST] S\n\na [/INST]⟦ b◼⟧"


def test_llama_2_and_mistral_are_encoded_as_one_text_between_their_ends():
    for name in ("llama-2", "mistral"):
        example = format_of(Dataset(path="x", type="sharegpt", conversation=name)).read(
            talk(("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d"))
        )
        assert "".join("+" if segment.glue else "|" for segment in example.segments) == "|+++|+++"


def test_role_tokens_stand_for_the_roles_where_the_vocabulary_has_both(tmp_path):
    format = format_of(Dataset(path="x", type="sharegpt"))
    row = talk(("human", "a"), ("gpt", "b"))
    for known, wanted in ((("<|USER|>", "<|ASSISTANT|>"), "<|USER|>a <|ASSISTANT|>⟦b◼⟧"), (("<|USER|>",), "USER: a ASSISTANT:⟦ b◼⟧")):
        fitted = format.fit(Vocabulary(tmp_path, known.__contains__, 9, re.compile("x"), {}))
        assert fitted.read(row).marked.endswith(wanted)


def test_an_empty_answer_is_not_trained_and_the_turn_stays_whole():
    row = talk(("human", "a"), ("gpt", ""), ("human", "b"), ("gpt", "c"))
    assert marked(row, type="sharegpt").endswith("USER: a ASSISTANT:◼USER: b ASSISTANT:⟦ c◼⟧")
    assert "assistant\n<|im_end|>\n<|im_start|>user\nb" in marked(row, type="sharegpt", conversation="chatml")


def test_other_spellings_of_a_rows_fields():
    assert marked({"instruction": "a", "response": "b"}, type="alpaca_chat.load_no_prompt") == "USER: a\nASSISTANT:⟦b◼⟧"
    other = {"conversations": [{"from": "prompter", "value": "a"}, {"from": "assistant", "value": "b"}]}
    assert marked(other, type="sharegpt.load_guanaco").endswith("USER: a ASSISTANT:⟦ b◼⟧")
    joke = {"title": None, "text": "t", "explanation": "e"}
    assert marked({"conversations": joke}, type="sharegpt_jokes") == marked(joke, type="sharegpt_jokes")
    assert marked(talk(("human", "a"), ("gpt", "b")), type="sharegpt_simple") == marked(talk(("human", "a"), ("gpt", "b")), type="sharegpt")
    assert marked({"conversations": '[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]'}, type="sharegpt").endswith("⟦ b◼⟧")


CRITIQUES = {"refusal": {"explanation": "é: x", "improvements": None}}


def test_a_critique_is_one_yaml_text_or_the_text_of_the_row():
    row = {
        "instruction": "q",
        "answer": "a",
        "scores": "refusal: 9\n",
        "critiques": CRITIQUES,
    }
    text = marked(row, type="creative_acr.load_critique")
    assert text.endswith("ASSISTANT:⟦refusal: 9\ncritiques:\n  refusal:\n    explanation: 'é: x'\n◼⟧")
    with pytest.raises(DataError, match="field 'scores' is a list, wanted a mapping or text"):
        marked({**row, "scores": [1]}, type="creative_acr.load_critique")


@pytest.mark.parametrize(
    ("row", "kind", "told"),
    [
        ({"conversations": [{"role": "x", "value": "a"}]}, "pygmalion", "a message is from 'x', wanted system or human or bot"),
        ({"question": "q", "choices": []}, "concisechoice", "a multiple choice wants the field 'solution' or 'explanation', the row has"),
        (
            {"instruction": "q"},
            "alpaca_chat.load_concise",
            "format alpaca_chat.load_concise wants the field 'output', the row has instruction",
        ),
        ({"question": "q", "choices": {"a": 1}}, "explainchoice", "field 'choices' is an object, wanted a list"),
        ({"conversations": [{"from": ["x"], "value": "a"}] * 2}, "sharegpt", "a message is from '['x']', wanted human or gpt"),
        (
            {"conversations": [{"from": "human"}, {"from": "gpt"}]},
            "sharegpt",
            "a message has the keys from, wanted 'value'",
        ),
        (
            {"input_ids": [1], "attention_mask": [1, 1], "labels": [1]},
            "pretokenized",
            "input_ids has 1 entries, attention_mask 2, labels 1; wanted the same number",
        ),
        (
            {"input_ids": ["a"], "attention_mask": [1], "labels": [1]},
            "pretokenized",
            "field 'input_ids' is a list of other things, wanted a list of ids",
        ),
    ],
)
def test_rows_of_other_formats_that_do_not_fit(row: dict, kind: str, told: str):
    with pytest.raises(DataError) as caught:
        read(format_of(Dataset(path="x", type=kind)), row)
    assert str(caught.value).startswith(told)
