"""`datasets`: a mapping from a name of the user's to where rows come from and how they become text."""

from typing import Annotated, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section


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
    """One data set. Any edit here re-runs its own fetch and tokenize, then pack onward."""

    path: Annotated[str, Field(min_length=1)]
    """A file (json, jsonl, csv, parquet, arrow, text), a folder of such files, or a hub repository."""
    type: str | UserPrompt = "alpaca"
    """How a row becomes text: a file of axolotl_core/formats, `alpaca:chat` with a style, or a mapping."""
    name: str | None = None
    """Configuration of a hub data set that has several."""
    data_files: str | list[str] | None = None
    """Which files of a folder or hub repository; globs are understood."""
    ds_type: Literal["json", "jsonl", "csv", "parquet", "arrow", "text"] | None = None
    """Reader to use where the file's suffix does not say it."""
    shards: Annotated[int, Field(ge=1)] | None = None
    """Take one row in N, shuffled from a fixed seed: a quick run on 1/N of the data."""
    train_on_split: str | None = None
    """Split of a hub data set; unset: `train`."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    conversation: str | None = None
    """Template of conversation types: `vicuna_v1.1` (unset), `chatml`."""
    field: str | None = None
    """Column that `completion` reads; unset: `text`."""
    field_human: str | None = None
    """Name of the user's role in conversations; unset: `human`."""
    field_model: str | None = None
    """Name of the model's role in conversations; unset: `gpt`."""
    rename: Annotated[dict[str, str], Built()] = {}
    """Columns to rename before the format reads the row."""
