"""`datasets`: a mapping from a name of the user's to where rows come from and how they become text."""

from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core import lookup
from axolotl_core.params.conflict import Conflict
from axolotl_core.params.section import Section


class UserPrompt(Section):
    """`type:` as a mapping: a prompt defined in the YAML (formats/user_defined.py reads it)."""

    system_prompt: str = ""
    """System text of rows that carry none."""
    field_system: str = "system"
    """Column with the row's own system text."""
    field_instruction: str = "instruction"
    """Column that fills {instruction}."""
    field_input: str = "input"
    """Column that fills {input}; a row where it is empty takes no_input_format."""
    field_output: str = "output"
    """Column with the answer, which is what is trained."""
    format: str = "{instruction} {input} "
    """Prompt of rows with an input; literal braces are doubled."""
    no_input_format: str = "{instruction} "
    """Prompt of rows without an input."""
    system_format: str = "{system}"
    """Goes in front when there is a system text."""


class Dataset(Section):
    """One dataset. An edit re-runs its own fetch or tokenize, then pack onward where rows come out otherwise."""

    path: Annotated[str, Field(min_length=1)]
    """A file (json, jsonl, csv, tsv, parquet, arrow, text; .gz, .bz2, .xz, .zst), a folder of such files or one of save_to_disk, or a
    hub repository. `json` and the like with data_files, as the datasets library spells it, are local files too."""
    type: str | UserPrompt = "pretokenized"
    """How a row becomes text: a file of axolotl_core/formats, `alpaca:chat` with a style, `my_module.load_fn` of your own, or a mapping."""
    name: str | None = None
    """Configuration of a hub dataset that has several."""
    data_files: str | list[str] | None = None
    """Which files of a folder or hub repository, by name or as globs."""
    ds_type: Literal["json", "jsonl", "csv", "tsv", "parquet", "arrow", "text"] | None = None
    """Reader to use where the file's suffix does not say it."""
    text_split: Literal["line", "paragraph", "file"] | None = None
    """What a sample of a text file is: a line, a paragraph (unset: between lines that are empty), or the whole file."""
    shards: Annotated[int, Field(ge=1)] | None = None
    """Take one row in N, shuffled from a fixed seed: a quick run on 1/N of the data."""
    train_on_split: str | None = None
    """Split of a hub dataset (unset: `train`), or of a folder whose file names say it, as `test.jsonl` does. A slice may follow, by
    rows or in percent: `train[:5%]`, `test[100:200]`."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    streaming: bool = False
    """Read a hub dataset row by row, shuffled through a buffer of 10,000, without downloading all of it; needs max_rows or max_bytes."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many rows."""
    max_bytes: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many bytes of rows, written as JSON."""
    held_out: bool = False
    """Hold all of its samples out for validation and train on none, as Axolotl does with test_datasets."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A malformed row is an error, or is left out and written to rejected.jsonl with the reason."""
    rename: dict[str, str] = {}
    """Columns to rename before the format reads the row, `{options: choices}`; `target.0` is the first of a list."""
    join: dict[str, str] = {}
    """Columns that are lists of texts, and what is put between them to make one text: `{source: " "}`."""
    allow_special_tokens: bool | None = None
    """Whether `</s>` in a field is the token or plain text; unset: the token in `completion` and `metharme`, else text."""
    conversation: str | None = None
    """Template of conversation types, a name of prompts/conversations.toml; unset: `vicuna_v1.1`."""
    field: str | None = None
    """Column that `completion` reads; unset: `text`."""
    field_human: str | None = None
    """Name of the user's role in conversations; unset: `human`."""
    field_model: str | None = None
    """Name of the model's role in conversations; unset: `gpt`."""
    roles_to_train: list[str] | None = None
    """Roles of a conversation that are trained, by the data's names or as system, user, assistant, tool; unset: the assistant."""
    train_role_prefix: bool = False
    """Train `ASSISTANT:` in front of the answer too."""
    chat_template: str | None = None
    """Template of `type: chat_template`: a Jinja file, or the name of one that comes with axolotl, such as chatml or llama3; unset or
    `tokenizer_default`: the tokenizer's own; `tokenizer_default_fallback_NAME`: the same, or NAME where it has none."""
    chat_template_jinja: str | None = None
    """The template itself, as Jinja text or a Jinja file, in the place of chat_template."""
    chat_template_kwargs: dict[str, Any] = {}
    """Further variables of the chat template, `{enable_thinking: false}`."""
    chat_template_date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] | None = None
    """Today's date for templates that write it (`strftime_now`), `2025-05-01`; unset: 2024-07-26, whatever the day is."""
    field_messages: str | None = None
    """Column with the messages for `chat_template`; unset: `messages` or `conversations`."""
    field_tools: str | None = None
    """Column with the tools that the conversation may call; unset: `tools`."""
    message_field_role: str | None = None
    """Key of a message's role; unset: `role` or `from`."""
    message_field_content: str | None = None
    """Key of a message's text; unset: `content` or `value`."""
    message_property_mappings: dict[str, str] = {}
    """Keys of a message by the template's name, `{role: from, content: value, reasoning_content: thought}`."""
    field_thinking: str | None = None
    """Key of a message with its reasoning."""
    template_thinking_key: str | None = None
    """The template's name of it; unset: `reasoning_content`."""
    split_thinking: bool = False
    """Take what an answer has between `<think>` and `</think>` at its beginning for its reasoning."""
    message_field_training: str | None = None
    """Key of a message with true or false, which says whether it is trained, whatever its role; as roles_to_train where it has none."""
    roles: dict[Literal["system", "user", "assistant", "tool"], list[str]] = {}
    """More names that the data gives to roles, `{assistant: [bot]}`."""
    drop_system_message: bool = False
    """Leave the system message of each conversation out, for templates that have no such role."""
    train_on_eot: bool | Literal["turn", "all", "last"] | None = None
    """With `chat_template`, which tokens that end a turn are trained: those of trained turns (turn, or true; the default), of all
    turns, of the last turn if it is trained, or none (false)."""
    train_on_eos: Literal["turn", "all", "last", "none"] | None = None
    """The same under Axolotl's other name."""

    def reading(self) -> dict[str, Any]:
        """Identity of what makes text of a row: all options but those that say where rows come from."""
        return {option: value for option, value in self.identity().items() if option not in SOURCE}


SOURCE = frozenset(
    {
        *("path", "name", "data_files", "ds_type", "shards", "train_on_split", "revision", "streaming", "max_rows", "max_bytes"),
        *("held_out", "on_bad_row", "text_split"),
    }
)
"""Options that say which rows there are, and nothing of what is made of one."""


FORMATS = "axolotl_core.formats"
CONVERSATIONS = ("sharegpt", "llama2_chat")
CHAT = ("chat_template",)
OPTIONS_OF_TYPES = {
    "conversation": ("sharegpt", "sharegpt_jokes"),
    "field_human": CONVERSATIONS,
    "field_model": CONVERSATIONS,
    "field": ("completion",),
    "roles_to_train": (*CONVERSATIONS, *CHAT),
    "train_role_prefix": (*CONVERSATIONS, "sharegpt_jokes"),
    **dict.fromkeys(("chat_template", "chat_template_jinja", "chat_template_kwargs", "chat_template_date"), CHAT),
    **dict.fromkeys(("train_on_eot", "train_on_eos", "roles", "field_messages", "field_tools", "message_property_mappings"), CHAT),
    **dict.fromkeys(("message_field_role", "message_field_content", "message_field_training"), CHAT),
    **dict.fromkeys(("field_thinking", "template_thinking_key", "split_thinking", "drop_system_message"), CHAT),
}
"""Options that only some formats read."""


def _of_other_types(data: Dataset) -> dict[str, Any]:
    """Options that are set and that the dataset's type does not read → types that do."""
    base = data.type.partition(":")[0].partition(".")[0] if isinstance(data.type, str) else "user_defined"
    base = "sharegpt" if base == "sharegpt_simple" else base
    if base not in lookup.names(FORMATS):  # a format of the user's own may read what it likes
        return {}
    types = {option: OPTIONS_OF_TYPES.get(option, (base,)) for option in data.identity()}
    return {option: f"'{base}'; it is for {', '.join(of)}" for option, of in types.items() if base not in of}


def _booleans_as_text(data: Dataset) -> dict[str, Any]:
    texts = {key: value for key, value in data.chat_template_kwargs.items() if isinstance(value, str)}
    return {key: value for key, value in texts.items() if value.lower() in ("true", "false")}


CONFLICTS = (
    Conflict(
        "chat_template_jinja",
        lambda d: d.chat_template_jinja is not None and d.chat_template not in (None, "jinja"),
        "chat_template_jinja is set beside chat_template '{chat_template}'; remove one",
    ),
    Conflict(
        "chat_template",
        lambda d: d.chat_template == "jinja" and d.chat_template_jinja is None,
        "chat_template is 'jinja', which requires the template in chat_template_jinja; set it",
    ),
    Conflict(
        "train_on_eos",
        lambda d: d.train_on_eot is not None and d.train_on_eos is not None,
        "train_on_eot and train_on_eos are both set, and mean the same; remove one",
    ),
    Conflict(
        "chat_template_kwargs.{option}",
        _booleans_as_text,
        "chat_template_kwargs: {option} is the text '{value}', which a template takes for true; write it without quotes",
    ),
    Conflict("{option}", _of_other_types, "{option} does nothing with type {value}"),
    Conflict(
        "streaming",
        lambda d: d.streaming and d.max_rows is None and d.max_bytes is None,
        "streaming is true, but neither max_rows nor max_bytes says where to stop, and an artifact is finite; set one",
    ),
)
