"""chat_template: the ids of apply_chat_template, and labels that come from the template itself."""

import datetime
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from axolotl_core.errors import DataError, ModelError, ParamsError
from axolotl_core.formats.chat_template import written
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Vocabulary
from axolotl_core.prompts.resolve import format_of
from axolotl_core.prompts.template import ChatTemplate
from axolotl_core.sources.place import resolve
from axolotl_core.tokens.encode import RowEncoder
from axolotl_core.tokens.encoded import COLUMN
from axolotl_core.tokens.make import make_tokenizer
from axolotl_core.tokens.tokenizer import read_tokenizer

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!\n"},
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": "Hello!\n"},
]
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # noqa: E501
TRIMMED = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"  # noqa: E501
THINKING = """\
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set content = m.content %}
{%- if '</think>' in content and not loop.last %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.last and '</think>' not in content %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- content }}
{%- for call in m.tool_calls or [] %}{{ '<call>' + (call.function.arguments | tojson) + '</call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
GENERATION = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\\n' }}{% endfor %}"  # noqa: E501


def marked(template: str, messages: list[dict], tmp_path: Path, row: dict | None = None, **data) -> str:
    file = tmp_path / "chat.jinja"
    file.write_text(template)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    format = format_of(Dataset(path="x", type="chat_template", chat_template=str(file), **data), tmp_path)
    added = ChatTemplate("").added
    assert format.fit is not None
    return format.fit(Vocabulary(tmp_path, lambda _: True, 9, added, special)).read({"messages": messages, **(row or {})}).marked


def test_each_answer_and_its_end_are_trained_wherever_else_its_text_stands(tmp_path: Path):
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n⟦Hello!\n<|im_end|>⟧\n"
    assert marked(CHATML, TALK, tmp_path) == turn.format("Hi") + turn.format("assistant")


def test_a_template_that_strips_texts(tmp_path: Path):
    assert marked(TRIMMED, TALK, tmp_path) == "<s>[INST] Hi [/INST]⟦ Hello!</s>⟧[INST] assistant [/INST]⟦ Hello!</s>⟧"


def test_what_the_template_puts_behind_its_generation_prompt_is_trained(tmp_path: Path):
    text = marked(THINKING, TALK, tmp_path)
    assert "assistant\n⟦Hello!\n<|im_end|>⟧\n<|im_start|>user" in text
    assert text.endswith("assistant\n⟦<think>\n\n</think>\n\nHello!\n<|im_end|>⟧\n")


def test_thoughts_that_the_template_takes_out_of_earlier_turns(tmp_path: Path):
    messages = [dict(m, content="<think>\nhm\n</think>\n\nHello!") if m["role"] == "assistant" else m for m in TALK]
    text = marked(THINKING, messages, tmp_path)
    assert text.count("⟦Hello!<|im_end|>⟧") == 1
    assert text.endswith("⟦<think>\nhm\n</think>\n\nHello!<|im_end|>⟧\n")


def test_tool_calls_are_what_the_assistant_wrote(tmp_path: Path):
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [TALK[0], {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "2"}, TALK[1]]
    text = marked(THINKING, messages, tmp_path)
    assert '<|im_start|>assistant\n⟦<call>{"a": 1}</call><|im_end|>⟧\n<|im_start|>tool\n2<|im_end|>' in text


def test_a_template_with_generation_blocks_says_it_itself(tmp_path: Path):
    assert marked(GENERATION, TALK[:2], tmp_path) == "user: Hi\nassistant: ⟦Hello!\n<|im_end|>⟧\n"


def test_generation_blocks_obey_the_row_and_refuse_other_wishes(tmp_path: Path):
    messages = [*TALK[:2], *TALK[:2]]
    messages[1] = {**messages[1], "learn": False}
    assert marked(GENERATION, messages, tmp_path, message_field_training="learn").count("⟦") == 1
    for option in ({"train_on_eot": False}, {"roles_to_train": ["user"]}):
        with pytest.raises(ParamsError, match="does nothing: the chat template's generation blocks say what is trained; remove it"):
            marked(GENERATION, messages, tmp_path, **option)


STRICT = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}
{%- elif m.tool_calls is defined %}{{ '[TOOL_CALLS] ' + (m.tool_calls | tojson) + eos_token }}
{%- elif m.role == 'tool' %}{{ '[RESULT]' + m.content + m.tool_call_id + '[/RESULT]' }}
{%- elif loop.index0 and messages[loop.index0 - 1].role not in ('user', 'tool') %}{{ raise_exception('roles must alternate') }}
{%- else %}{{ ' ' + m.content + eos_token }}{% endif %}
{%- endfor %}"""


def test_a_template_that_refuses_half_a_message(tmp_path: Path):
    call = {"id": "abc", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}
    messages = [
        TALK[0],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "abc"},
        {"role": "assistant", "content": "Two."},
    ]
    assert marked(STRICT, messages, tmp_path) == (
        '<s>[INST] Hi[/INST]⟦[TOOL_CALLS] [{"id": "abc", "function": {"name": "add", "arguments": {"a": 1, "b": null}}}]</s>⟧'
        "[RESULT]2abc[/RESULT]⟦ Two.</s>⟧"
    )


def test_a_message_that_says_nothing_is_not_trained_and_one_without_its_key_is_told(tmp_path: Path):
    text = marked(CHATML, [*TALK[:2], TALK[0], {"role": "assistant", "content": "", "id": "7"}], tmp_path)
    assert text.count("⟦") == 1
    with pytest.raises(DataError, match="a message has the keys role, text, wanted 'content'; message_field_content names another"):
        marked(CHATML, [{"role": "user", "text": "Hi"}], tmp_path)
    with pytest.raises(DataError, match=r"a message is from role '\['user'\]'"):
        marked(CHATML, [{"role": ["user"], "content": "Hi"}], tmp_path)


def test_the_first_word_behind_a_templates_blank_is_trained(tmp_path: Path, smollm2: Path):
    (tmp_path / "a.jinja").write_text(TRIMMED.replace("eos_token", "'<|im_end|>'"))
    tokenizer = read_tokenizer(smollm2)
    format = format_of(Dataset(path="x", type="chat_template", chat_template="a.jinja"), tmp_path)
    made = RowEncoder(format, tokenizer).encode([json.dumps({"messages": TALK[:2]})])
    assert tokenizer.decode([label for label in made.labels.tolist() if label >= 0]) == " Hello!<|im_end|>"


def test_tokens_that_the_user_added_end_a_turn_as_special_ones_do(tmp_path: Path, tokenizer_folder: Path):
    settings = {"revision": None, "token": False, "special_tokens": {}, "tokens": ["<|end|>"]}
    make_tokenizer(resolve(str(tokenizer_folder), tmp_path), tmp_path, **settings)
    for ending in ("<|end|>\n", "<|end|>{% endgeneration %}\n", "<|end|>\n{% endgeneration %}"):
        begin = "{% generation %}" if "endgeneration" in ending else ""
        source = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}" + begin + "{{ m.content }}" + ending
        (tmp_path / "a.jinja").write_text(source + "{% else %}{{ m.content }}\n{% endif %}{% endfor %}")
        format = format_of(Dataset(path="x", type="chat_template", chat_template="a.jinja"), tmp_path)
        made = RowEncoder(format, read_tokenizer(tmp_path)).encode([json.dumps({"messages": TALK})])
        assert (made.stats[0, COLUMN["turns"]], made.stats[0, COLUMN["unended"]]) == (2, 0), ending


def test_roles_keys_and_turn_ends_can_be_chosen(tmp_path: Path):
    row = {
        "talk": [{"who": "bot", "text": "a"}, {"who": "person", "text": "b", "learn": True}, {"who": "bot", "text": "c", "learn": False}]
    }
    keys = {"field_messages": "talk", "message_field_role": "who", "message_field_content": "text", "message_field_training": "learn"}
    names = {"roles": {"assistant": ["bot"], "user": ["person"]}}
    text = marked(CHATML, [], tmp_path, row, **keys, **names)
    assert text.count("⟦") == 2, "what a message says of itself is more than its role"
    assert "user\n⟦b<|im_end|>⟧\n" in text
    assert "assistant\n⟦a<|im_end|>⟧\n" in text
    both = marked(CHATML, [], tmp_path, row, **keys, **names, roles_to_train=["person", "bot"], train_on_eot=False)
    assert [part.partition("⟧")[0] for part in both.split("⟦")[1:]] == ["a", "b"]


def test_ids_are_those_of_apply_chat_template_and_labels_those_of_the_answers(smollm2: Path):
    theirs, ours = AutoTokenizer.from_pretrained(smollm2), read_tokenizer(smollm2)
    encoder = RowEncoder(format_of(Dataset(path="x", type="chat_template")), ours)
    talks = [TALK, TALK[:2], [{"role": "system", "content": "Be kind."}, *TALK], [{"role": "user", "content": "\n\n é 🚀 "}, TALK[1]]]
    made = encoder.encode([json.dumps({"conversations": [{"from": m["role"], "value": m["content"]} for m in talk]}) for talk in talks])
    for i, talk in enumerate(talks):
        ids, labels = (side[made.offsets[i] : made.offsets[i + 1]].tolist() for side in (made.ids, made.labels))
        assert ids == theirs.apply_chat_template(talk, tokenize=True, return_dict=False)
        assert ours.decode([label for label in labels if label >= 0]) == "Hello!\n<|im_end|>" * sum(m["role"] == "assistant" for m in talk)
    assert made.stats[:, COLUMN["unended"]].tolist() == [0] * len(talks)


def test_a_template_without_an_end_is_counted(tmp_path: Path, tokenizer_folder: Path):
    (tmp_path / "a.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    format = format_of(Dataset(path="x", type="chat_template", chat_template="a.jinja"), tmp_path)
    made = RowEncoder(format, read_tokenizer(tokenizer_folder)).encode([json.dumps({"messages": TALK})])
    assert made.stats[0, COLUMN["turns"]] == made.stats[0, COLUMN["unended"]] == 2


@pytest.mark.parametrize(
    ("template", "messages", "told"),
    [
        ("{{ raise_exception('roles must alternate') }}", TALK, "the chat template does not take this conversation: roles must alternate"),
        ("{{ clock() }}", TALK, "the chat template does not take this conversation: 'clock' is undefined"),
        ("nothing", TALK, "the chat template does not write the content of message 2, from 'assistant'"),
        (CHATML, [{"role": "robot", "content": "x"}], "a message is from role 'robot'; known are system, developer, user, assistant, tool"),
        (CHATML, [], r"field 'messages' has 0 messages, wanted at least 1"),
    ],
)
def test_a_conversation_that_does_not_fit_is_told(tmp_path: Path, template: str, messages: list, told: str):
    with pytest.raises(DataError, match=told):
        marked(template, messages, tmp_path)


def test_a_file_that_is_no_template_is_told(tmp_path: Path, tokenizer_folder: Path):
    with pytest.raises(ParamsError, match=r"the chat template is not valid Jinja, line 1: "):
        marked("{% for %}", TALK, tmp_path)
    with pytest.raises(ParamsError, match=r"chat_template: no such file: nowhere.jinja; wanted a Jinja file, tokenizer_default"):
        format_of(Dataset(path="x", type="chat_template", chat_template="nowhere.jinja"), tmp_path)
    with pytest.raises(ParamsError, match=r"roles_to_train: no role is called 'asistant'; did you mean 'assistant'\?"):
        format_of(Dataset(path="x", type="chat_template", roles_to_train=["asistant"]), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    format = format_of(Dataset(path="x", type="chat_template"), tmp_path)
    assert format.fit is not None
    with pytest.raises(ModelError, match=r"the tokenizer has no chat template; give one as `chat_template` of the dataset"):
        format.fit(Vocabulary(tmp_path, lambda _: True, 9, ChatTemplate("").added, {}))


CONTENT = st.lists(st.sampled_from(["a", " ", "\n", "Hello", "assistant", "<|im_end|>", "[INST]", "</think>"]), max_size=5).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([CHATML, TRIMMED, THINKING]), st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3))
def test_the_quick_way_and_the_sure_way_find_the_same_spans(source: str, talk: list[tuple[str, str]]):
    messages = [{"role": role, "content": said} for pair in talk for role, said in zip(("user", "assistant"), pair, strict=True)]
    wanted = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m["content"].strip()]
    quick, sure = (ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}) for _ in range(2))
    sure._skeleton = lambda roles: None  # type: ignore[method-assign]
    text, spans = quick.spans(messages, None, wanted)
    assert sure.spans(messages, None, wanted) == (text, spans)
    for span in spans:
        said = messages[span.message]["content"].strip()
        assert said.split("</think>")[-1].strip() in text[span.start : span.end]


def test_strftime_now_is_a_day_that_does_not_pass():
    source = "{{ strftime_now('%d %B %Y') }}"
    assert ChatTemplate(source).render(TALK) == "26 July 2024"
    assert ChatTemplate(source, date=datetime.date(2025, 5, 1)).render(TALK) == "01 May 2025"


SPLIT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m.content }}\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].strip() }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking|default(true) %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("thinks", "asked", "trained"), [(True, True, "<think>\nhm\n</think>\n\nA"), (False, False, "A"), (True, False, None)]
)
def test_reasoning_is_trained_as_a_whole_or_not_at_all(thinks: bool, asked: bool, trained: str | None):
    template = ChatTemplate(SPLIT, settings={"enable_thinking": asked})
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think>hm</think>A" if thinks else "A"}]
    if trained is None:
        with pytest.raises(
            DataError, match=r"message 2 begins with <think>, but the chat template asks for it with '<\|im_start\|>assistant <th"
        ):
            template.spans(talk, None, [1])
        return
    text, (span,) = template.spans(talk, None, [1])
    assert text[span.start : span.end] == trained + "<|im_end|>"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Cal"}, {"type": "text", "text": "m."}], "Calm."),
        (["Cal", "m."], "Calm."),
        ([], None),
        (
            [{"type": "image_url", "image_url": {"url": "x"}}],
            "a message has a content part of type 'image_url', wanted parts of type 'text'",
        ),
        ([7], "a message has a content part that is int, wanted parts of type 'text'"),
    ],
)
def test_parts_of_a_content_are_its_text(content: list, text: str | None):
    data = Dataset(path="x")
    format = written(data, ChatTemplate(CHATML))
    row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": content}]}
    if text and text.startswith("a message"):
        with pytest.raises(DataError, match=text):
            format.read(row)
    else:
        assert ("⟦" in format.read(row).marked) == (text is not None)
        assert text is None or f"⟦{text}<|im_end|>⟧" in format.read(row).marked


def test_a_tag_in_the_users_text_is_no_reasoning():
    """Mistral's template writes the system text into the last message of the user, so no prefix of a conversation is one of its text."""
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST]{% if loop.index0 == messages|length - 1 or loop.last %}{{ 'S' }}{% endif %}"
        "{{ m.content }}[/INST]{% elif m.role == 'assistant' %}{{ m.content | trim }}</s>{% endif %}{% endfor %}"
    )
    talk = [{"role": "user", "content": "Close <div>?", "name": "x"}, {"role": "assistant", "content": " Yes. ", "name": "y"}]
    text, (span,) = ChatTemplate(source).spans(talk, None, [1])
    assert text[span.start : span.end] == "Yes.</s>"


GROWS = "{% set n = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s OP n.s %}{% endfor %}"
LONG = "{% set a = 'a' * 1000000 %}"
HURTS = {
    "loops": (
        "{% for i in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3,
        "costs too much: it goes through loops and macros over 1,000,000",
    ),
    "loops without a word": (
        "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3,
        "costs too much: it goes through loops and macros over",
    ),
    "doubles": (GROWS.replace("OP", "~"), "costs too much: it makes a text of over 10,000,000 characters"),
    "adds": (GROWS.replace("OP", "+"), "costs too much: it makes a text of over 10,000,000 characters"),
    "multiplies": ("{{ 'a' * 10000000000 }}", "costs too much: it makes a text of over 10,000,000 characters"),
    "powers": ("{{ 10 ** 100000000 }}", "costs too much: it makes a number of over 1,000 digits"),
    "centres": ("{{ 'a'|center(10000000000) }}", "costs too much: it makes a text of over"),
    "pads": ("{{ 'a'.ljust(10000000000) }}", "costs too much: it makes a text of over"),
    "formats": ("{{ '%10000000000d' % 1 }}", "costs too much: it makes a text of over"),
    "formats by filter": ("{{ '%10000000000d'|format(1) }}", "costs too much: it makes a text of over"),
    "replaces": (LONG + "{{ a.replace('a', a) }}", "costs too much: it makes a text of over"),
    "replaces by filter": (LONG + "{{ a|replace('a', a) }}", "costs too much: it makes a text of over"),
    "joins": (LONG + "{{ a|list|join(a) }}", "costs too much: it makes a text of over"),
    "squares": (GROWS.replace("'aaaaaaaaaa'", "3").replace("OP", "*"), "costs too much: it makes a number of over 1,000 digits"),
    "batches": ("{{ [1]|batch(300000000, 0)|list }}", "costs too much: it makes a text of over"),
    "slices": ("{{ [1]|slice(100000000)|list }}", "costs too much: it makes a text of over"),
    "sums": (LONG + "{{ ([a] * 9)|sum(start=[]) }}", "costs too much: it adds up lists"),
    "widens": ("{{ '%*d' % (3000000000, 1) }}", "costs too much: it makes a text of over"),
    "widens by a name": ("{{ '{:{w}}'.format('', w=3000000000) }}", "costs too much: it makes a text of over"),
    "expands tabs": ("{{ ('\\t' * 100000).expandtabs(30000) }}", "costs too much: it makes a text of over"),
    "indents": ("{{ ('\\n' * 30000)|indent(100000, true, true) }}", "costs too much: it makes a text of over"),
    "joins a list": (LONG + "{{ ([a] * 9)|join }}{{ ([a] * 9)|join(a) }}", "costs too much: it makes a text of over"),
    "grows a tuple": (GROWS.replace("'aaaaaaaaaa'", "(1, 2)").replace("OP", "+"), "costs too much: it makes a text of over"),
    "writes json": ("{{ [[[1]]]|tojson(indent=300000000) }}", "costs too much: it makes a text of over"),
    "has no lipsum": ("{{ lipsum(n=1000000) }}", "does not take this conversation: 'lipsum' is undefined"),
    "divides by zero": ("{{ 1 / 0 }}", "fails on this conversation: ZeroDivisionError"),
    "calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on this conversation: it calls itself without end"),
    "loops in itself": ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "fails on this conversation: it calls itself"),
    "looks around": ("{{ ''.__class__.__mro__ }}", "does not take this conversation: access to attribute '__class__'"),
}


@pytest.mark.parametrize("name", HURTS)
def test_a_template_that_is_made_to_hurt_is_one_sentence(name: str):
    source, told = HURTS[name]
    with pytest.raises(DataError, match=f"the chat template {told}"):
        ChatTemplate(source).render([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("source", ["{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "{% if 1 %}" * 3000 + "{% endif %}" * 3000])
def test_a_template_that_is_nested_without_end_is_told(source: str):
    with pytest.raises(ParamsError, match="the chat template is nested too deeply to be read"):
        ChatTemplate(source)


def test_the_limits_are_those_of_one_row_and_grow_with_it():
    template = ChatTemplate(
        "{% for m in messages %}{% for n in messages %}{% endfor %}{{ m.role ~ ': ' + m.content|replace('a', 'bb') }}{% endfor %}"
    )
    many = [{"role": "user", "content": "a"}] * 700
    assert template.render(many) == template.render(many) == "user: bb" * 700
    long = [{"role": "user", "content": "a" * 12_000_000}]
    assert len(template.render(long)) == 24_000_006
