"""Rows → text: what is trained, what closes a turn, and what is said of rows that do not fit."""

import pytest

from axolotl_core import lookup
from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.datasets import Dataset, UserPrompt
from axolotl_core.prompts.resolve import FORMATS, format_of, read

WITHOUT = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


def marked(row: dict, **data) -> str:
    return read(format_of(Dataset(path="x", **data)), row).marked


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
            "format alpaca wants the field 'instruction', the row has conversations; the format 'sharegpt' would read it",
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
        ({"conversations": "x"}, {"type": "sharegpt"}, 'field \'conversations\' is no list of {"from", "value"}'),
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
            "no format is called 'alpacca'; did you mean 'alpaca'?; there are alpaca, completion, sharegpt, user_defined",
        ),
        ({"type": "alpaca:caht"}, "no prompt style is called 'caht'; did you mean 'chat'?; there are instruct, chat, chatml"),
        ({"type": "alpaca.load_x"}, "the format alpaca has no 'load_x'; did you mean 'load'?; it has load"),
        ({"type": "completion:chat"}, "completion has no style, got 'completion:chat'; remove ':chat'"),
        ({"type": "sharegpt:x"}, "sharegpt has no style, got 'sharegpt:x'; choose the template with `conversation`"),
        (
            {"type": "sharegpt", "conversation": "chatmll"},
            "no conversation is called 'chatmll'; did you mean 'chatml'?; there are vicuna_v1.1, chatml",
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
    assert str(caught.value) == told


def test_the_folder_is_the_table():
    for name in lookup.names(FORMATS):
        module = lookup.find(FORMATS, name, "format")
        assert callable(module.load)
        assert isinstance(module.COLUMNS, tuple)
        assert ">>>" in module.__doc__, f"{name} shows no row in its docstring"
