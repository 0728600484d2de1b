"""A flat Axolotl YAML, of 2023 or of today → a document with sections, and what became of each option.

kept         the same name, in its section
renamed      another name, the same value
replaced     another value or another option that means the same, or is the nearest there is
not needed   nothing is lost without it, because …
left out     there is nothing like it, because …
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.document import Document, Where
from axolotl_core.params.flat import datasets, values
from axolotl_core.params.flat.migration import Migration
from axolotl_core.params.flat.options import (
    KERNELS,
    LEFT_OUT,
    NOT_NEEDED,
    PEFT,
    PLUGIN_REASONS,
    PLUGINS,
    RENAMED,
    TRACKERS,
    VISION,
    WITHOUT,
    found_in,
)
from axolotl_core.params.params import SECTIONS, section_of
from axolotl_core.params.section import acted_on

LISTS = ("datasets", datasets.TEST, datasets.PRETRAINING)
OF_ADAPTERS = ("lora_", "peft_", "loraplus_", "relora")
"""Options that do nothing without an adapter begin so."""
DEFAULT_SEQUENCE_LEN = 512
PER_PROCESS = ("micro_batch_size", "gradient_accumulation_steps", "batch_size")


@dataclass(frozen=True)
class Translation:
    """document: with sections, its lines and comments those of the old file."""

    document: Document
    migrations: list[Migration]


def is_flat(found: dict[str, Any]) -> bool:
    """A sectioned file has at least one section besides `datasets` that is a mapping (or empty)."""
    sections = [k for k, v in found.items() if k in SECTIONS and k != "datasets" and isinstance(v, dict)]
    return not sections and any(key in LISTS or known(key) for key in found if key in LISTS or not isinstance(found[key], dict))


def known(option: str) -> bool:
    """Whether it is an option of Axolotl's, or ours."""
    tables = (section_of(), NOT_NEEDED, RENAMED, HANDLERS)
    return option in LISTS or any(option in table for table in tables) or any(found_in(table, option) for table in (WITHOUT, LEFT_OUT))


def place_of(migration: Migration) -> Where:
    """The path of the option in the old file: `datasets[0].split` → ("datasets", 0, "split")."""
    parts = re.findall(r"[^.\[\]:]+|\[\d+\]", migration.option.partition(": ")[0])
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)


def what_became_of(option: str) -> str:
    """A hint for an option of Axolotl's in a file with sections; empty for one that is none."""
    if option in RENAMED:
        return f"; it is called '{RENAMED[option]}' here"
    if option in NOT_NEEDED:
        return f"; it is not needed: {NOT_NEEDED[option]}"
    reason = found_in(WITHOUT, option) or found_in(LEFT_OUT, option)
    return f"; it is left out: {reason}" if reason else ""


def translate(document: Document, processes: int | None = None) -> Translation:
    """processes: how many the old file was run on, whose product with its batch is batch_size; unset: its num_processes, or one.

    Raises ParamsError where pretraining_dataset cannot be read, or the batch is not counted in numbers. Unknown options are left out.
    """
    given = document.values.get("num_processes")
    processes = processes or (given if isinstance(given, int) else 1)
    translator = _Translator(document, Document(document.source, {}), [], replicas(document.values, processes))
    for option, value in sorted(document.values.items(), key=lambda item: item[0] not in LISTS):  # others look at the datasets
        if value is None:
            translator.tell(option, "not needed", "it is empty, so it has its default")
        else:
            translator.take(option, value)
    if not any(document.values.get(option) for option in PER_PROCESS):
        _set_rows(translator, translator.processes)
    if document.values.get("sequence_len") is None and "max_packed_sequence_len" not in document.values:
        translator.out.set(("packing", "sequence_len"), DEFAULT_SEQUENCE_LEN)
        translator.tell("sequence_len", "replaced", f"packing.sequence_len: {DEFAULT_SEQUENCE_LEN}, Axolotl's default; the file has none")
    order = {option: i for i, option in enumerate(document.values)}
    return Translation(translator.out, sorted(translator.migrations, key=lambda migration: order.get(_head(migration), len(order))))


def _head(migration: Migration) -> str:
    """The option of the old file that a migration is of: `datasets[0].split` → `datasets`."""
    return re.split(r"[.:\[]", migration.option)[0]


def replicas(found: dict[str, Any], processes: int) -> int:
    """Processes that see rows of their own: those of one context or tensor parallel group share theirs."""
    shared = 1
    for option in ("tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree"):
        size = found.get(option)
        shared *= size if isinstance(size, int) and size > 0 else 1
    return max(1, processes // shared)


@dataclass(frozen=True)
class _Translator:
    """old: the flat document; out: what is made of it."""

    old: Document
    out: Document
    migrations: list[Migration]
    processes: int

    def take(self, option: str, value: Any) -> None:
        """Find what becomes of one option that has a value."""
        if option in HANDLERS:
            HANDLERS[option](self, option, value)
        elif option in LISTS:
            self.take_list(option)
        elif option in NOT_NEEDED:
            self.tell(option, "not needed", NOT_NEEDED[option])
        elif self.does_nothing_without_adapter(option):
            self.tell(option, "not needed", "it does nothing without an adapter")
        elif (message := self._acts(option, value)) is None:
            self.put(option, value)
        elif value is False or value == 0:
            self.tell(option, "not needed", "it is off")
        else:
            self.leave_out(option, message)

    def _acts(self, option: str, value: Any) -> str | None:
        """None where our option of that name takes the value; else an empty text, or why not."""
        name = RENAMED.get(option, option)
        if name not in section_of():
            return ""
        return acted_on(SECTIONS[section_of()[name]], name, value)

    def leave_out(self, option: str, message: str = "") -> None:
        """With the reason of the tables."""
        if harmless := found_in(WITHOUT, option):
            return self.tell(option, "left out", harmless)
        reason = found_in(LEFT_OUT, option) or message
        if not reason:
            near = nearest(option, [*section_of(), *NOT_NEEDED, *RENAMED, *LISTS])
            reason = f"no option that is known here{near}"
        return self.tell(option, "left out", reason, stops=True)

    def take_list(self, option: str) -> None:
        """datasets, test_datasets, pretraining_dataset."""
        if option == datasets.PRETRAINING:
            self.migrations.extend(datasets.pretraining(self.old, self.out, self.processes or 1))
            return
        held_out = option == datasets.TEST
        found = datasets.named(self.old, option, self.out, held_out=held_out)
        self.tell(option, *(("renamed", "datasets, each with held_out: true") if held_out else ("kept", "datasets")))
        self.migrations.extend(found)

    def put(self, option: str, value: Any, to: str | None = None, message: str = "") -> None:
        """Into the section of `to`, or of the option's own name or the one it is renamed to."""
        name = to or RENAMED.get(option, option)
        section = section_of()[name]
        self.out.set((section, name), value)
        if not message:
            self.old.move((option,), (section, name), self.out)
        else:
            self.out.lines[(section, name)] = self.old.lines.get((option,), 0)
            if (option,) in self.old.comments:
                self.out.comments[(section, name)] = self.old.comments[(option,)]
        home = f"{section}.{name}"
        if message:
            self.tell(option, "replaced", f"{home}: {message}")
        else:
            self.tell(option, "kept" if name == option else "renamed", home)

    def tell(self, option: str, status: Any, message: str, *, stops: bool = False) -> None:
        self.migrations.append(Migration(option, status, message, stops))

    def value(self, option: str) -> Any:
        """Of another option of the old file."""
        return self.old.values.get(option)

    def does_nothing_without_adapter(self, option: str) -> bool:
        """lora_r beside `adapter:` that is empty, as in Axolotl's examples of a full fine-tune."""
        return option.startswith(OF_ADAPTERS) and known(option) and not self.value("adapter") and not self.value("lora_model_dir")


Handler = Callable[[_Translator, str, Any], None]


def _empty(given: _Translator, option: str, value: Any) -> None:
    """An empty text or mapping is unset."""
    if value in ("", {}, []):
        given.tell(option, "not needed", "it is empty, so it has its default")
    elif given.does_nothing_without_adapter(option):
        given.tell(option, "not needed", "it does nothing without an adapter")
    else:
        given.put(option, value)


def _targets(given: _Translator, option: str, value: Any) -> None:
    if value in ("all-linear", ["all-linear"]) and not given.does_nothing_without_adapter(option):
        given.put(option, True, to="lora_target_linear", message="every linear module")
    else:
        _empty(given, option, value)


def _base_model_config(given: _Translator, option: str, value: Any) -> None:
    if value == given.value("base_model"):
        given.tell(option, "not needed", "it is base_model once more")
    else:
        given.leave_out(option)


def _batch(given: _Translator, option: str, value: Any) -> None:
    """The rows of a step: per process in Axolotl, over all processes here."""
    if not countable(given.old.values):
        if not isinstance(value, int):
            raise ParamsError(f"{given.old.place((option,))}: {option} is {value!r}, wanted a whole number")
        return None
    if option == "micro_batch_size":
        given.put(option, value)
        if given.value("batch_size") or given.value("gradient_accumulation_steps"):
            return None
        return _set_rows(given, value * given.processes)
    if option == "gradient_accumulation_steps" and given.value("batch_size"):
        return given.tell(option, "not needed", "batch_size follows from batch_size of the old file")
    rows, each = batch_of(given.old.values)
    given.put(option, rows * given.processes, to="batch_size", message=f"{rows * given.processes} = {each} × {given.processes} processes")
    return None


def _set_rows(given: _Translator, rows: int) -> None:
    given.out.set(("training", "batch_size"), rows)


def countable(found: dict[str, Any]) -> bool:
    """Whether the rows of a step can be told: all that says so are numbers."""
    return all(isinstance(found.get(name) or 1, int) for name in PER_PROCESS)


def batch_of(found: dict[str, Any]) -> tuple[int, str]:
    """Rows of a step of one process, and the arithmetic of it; only where they are countable."""
    micro, turns = found.get("micro_batch_size") or 1, found.get("gradient_accumulation_steps") or 1
    if rows := found.get("batch_size"):
        return int(rows), f"batch_size {rows}"
    return micro * turns, f"micro_batch_size {micro} × gradient_accumulation_steps {turns}"


def _tokens(given: _Translator, option: str, value: Any) -> None:
    """A mapping of special tokens, as examples of 2023 have it, or a list of words."""
    if not isinstance(value, dict):
        others = given.out.values.get("tokenizer", {}).get("tokens") or []  # additional_special_tokens
        return given.put(option, [*others, *value] if isinstance(value, list) else value)
    named = {name: text for name, text in value.items() if text is not None}
    before = given.out.values.get("tokenizer", {}).get("special_tokens")
    both = {**named, **(before if isinstance(before, dict) else {})}
    return given.put(option, both, to="special_tokens", message="a mapping names special tokens")


def _special_tokens(given: _Translator, option: str, value: Any) -> None:
    if not isinstance(value, dict):
        return given.put(option, value)
    more = value.get("additional_special_tokens") or []
    rest = {name: text for name, text in value.items() if text is not None and name != "additional_special_tokens"}
    before = given.out.values.get("tokenizer", {}).get("special_tokens")
    rest = {**(before if isinstance(before, dict) else {}), **rest}
    if not rest and not more:
        return given.tell(option, "not needed", "it is empty, so it has its default")
    if rest:
        given.put(option, rest)
    if isinstance(more, list) and more:
        listed = given.out.values.get("tokenizer", {}).get("tokens") or []
        given.out.set(("tokenizer", "tokens"), [*(listed if isinstance(listed, list) else [listed]), *more])
        given.tell(f"{option}.additional_special_tokens", "replaced", "tokenizer.tokens: they are always recognised in text")
    return None


def _optimizer(given: _Translator, option: str, value: Any) -> None:
    found = values.optimizer(str(value))
    if found is None:
        given.tell(option, "left out", f"{value} is not built; the default, adamw_torch_fused, is another method", stops=True)
    elif found[1]:
        given.put(option, found[0], message=f"{found[0]} for {value}: {found[1]}")
    else:
        given.put(option, value)


def _scheduler(given: _Translator, option: str, value: Any) -> None:
    share = given.value("cosine_min_lr_ratio")
    if value == "rex":
        given.tell(option, "left out", "rex is not built; the default, cosine, is another curve", stops=True)
    elif value == "cosine" and isinstance(share, int | float) and share:
        given.put(option, "cosine_with_min_lr", message="cosine_with_min_lr, for cosine_min_lr_ratio")
    else:
        given.put(option, value)


def _least_rate(given: _Translator, option: str, value: Any) -> None:
    if not value:
        given.tell(option, "not needed", "it is off")
    elif (given.value("lr_scheduler") or "cosine") == "cosine" and isinstance(value, int | float):
        given.out.set(("training", "lr_scheduler"), "cosine_with_min_lr")
        others = given.value("lr_scheduler_kwargs")
        kwargs = {**(others if isinstance(others, dict) else {}), "min_lr_rate": value}
        given.put(option, kwargs, to="lr_scheduler_kwargs", message=f"min_lr_rate: {value} of cosine_with_min_lr")
    else:
        given.tell(option, "left out", "it is for lr_scheduler: cosine", stops=True)


def _scheduler_kwargs(given: _Translator, option: str, value: Any) -> None:
    share = given.value("cosine_min_lr_ratio")
    if isinstance(value, dict) and share and (given.value("lr_scheduler") or "cosine") == "cosine":
        given.put(option, {**value, "min_lr_rate": share}, message="with min_lr_rate of cosine_min_lr_ratio")
    else:
        _empty(given, option, value)


def _relora(given: _Translator, option: str, value: Any) -> None:
    if given.value("jagged_restart_steps") or not value:
        given.tell(option, "not needed", "relora_steps switches it on")
    else:
        given.tell(option, "left out", "it says nothing without jagged_restart_steps, the steps between merges", stops=True)


def _jagged(given: _Translator, option: str, value: Any) -> None:
    if not value:
        given.tell(option, "not needed", "it is off")
    elif given.value("relora") or given.value("adapter"):
        given.put(option, value)
    else:
        given.tell(option, "left out", "restarts of the schedule without ReLoRA are not built", stops=True)


def _prune(given: _Translator, option: str, value: Any) -> None:
    if given.value("relora_steps") or given.value("jagged_restart_steps"):
        given.put(option, value)
    else:
        given.tell(option, "not needed", "it does nothing without relora_steps")


def _fsdp(given: _Translator, option: str, value: Any) -> None:
    if value in ("", [], {}):
        given.tell(option, "not needed", "it is empty, so it has its default")
        return
    version = given.value("fsdp_version")
    if option == "fsdp_config" and isinstance(value, dict) and version:
        value = {**value, "fsdp_version": version}
    given.put(option, value)
    if option == "fsdp_config" and not given.value("fsdp"):
        given.out.set(("machine", "fsdp"), True)


def _fsdp_version(given: _Translator, option: str, value: Any) -> None:
    if given.value("fsdp_config"):
        given.tell(option, "replaced", f"machine.fsdp_config: fsdp_version: {value}")
    elif given.value("fsdp"):
        given.put(option, {option: value}, to="fsdp_config", message=f"fsdp_version: {value}")
    else:
        given.tell(option, "not needed", "it does nothing without fsdp")


def _deepspeed(given: _Translator, option: str, value: Any) -> None:
    name = values.deepspeed(value) if isinstance(value, str) else value
    if name != value:
        given.put(option, name, message=f"{name} comes with axolotl")
    elif isinstance(value, str) and not value:
        given.tell(option, "not needed", "it is empty, so it has its default")
    elif isinstance(value, dict):
        given.leave_out(option, "write the mapping to a JSON file, and give its name")
    else:
        given.put(option, value)


def _plugins(given: _Translator, option: str, value: Any) -> None:
    for path in value if isinstance(value, list) else [value]:
        kind = str(path).rpartition(".")[2]
        if kind in PLUGINS:
            switch = PLUGINS[kind]
            if switch:
                given.out.set(("machine", switch), True)
                given.out.lines["machine", switch] = given.old.lines.get((option,), 0)
            home = f"machine.{switch}" if switch else "its switches are options of the machine section"
            given.tell(f"{option}: {kind}", "replaced", home)
        else:
            reason = found_in(PLUGIN_REASONS, str(path).lower())
            harmless = reason in (TRACKERS, KERNELS)
            given.tell(f"{option}: {kind}", "left out", reason or "a plugin that is not known here", stops=not harmless)


def _max_packed(given: _Translator, option: str, value: Any) -> None:
    """Axolotl of 2023 concatenated samples to rows of this length."""
    given.put(option, value, to="sequence_len", message=f"rows of {value} tokens, with packing.sample_packing: true")
    given.out.set(("packing", "sample_packing"), True)


def _sequence_len(given: _Translator, option: str, value: Any) -> None:
    if given.value("max_packed_sequence_len"):
        given.tell(option, "not needed", "max_packed_sequence_len is the length of a row")
    else:
        given.put(option, value)


def _sample_packing(given: _Translator, option: str, value: Any) -> None:
    if value is False and given.value("max_packed_sequence_len"):
        given.tell(option, "not needed", "max_packed_sequence_len packs")
    else:
        given.put(option, value)


def _group_by_length(given: _Translator, option: str, value: Any) -> None:
    if value and (given.value("sample_packing") or given.value("max_packed_sequence_len")):
        given.tell(option, "not needed", "packed rows are all full")
    else:
        given.put(option, value)


def _checkpointing(given: _Translator, option: str, value: Any) -> None:
    if value == "unsloth":
        given.put(option, "offload", message="offload, for unsloth")
    elif value == "offload_disk":
        given.put(option, "offload", message="offload, to the machine's memory in the place of its disk")
    else:
        given.put(option, value)


def _chat_template(given: _Translator, option: str, value: Any) -> None:
    """The default of datasets of type chat_template that have none of their own."""
    had = {name for name, entry in _named(given) if entry.keys() & {"chat_template", "chat_template_jinja"}}
    names = [name for name in _conversations(given) if name not in had]
    if not names:
        given.tell(option, "not needed", "no dataset of type chat_template takes it")
        return
    message = values.models_own(value) if option == "chat_template" else ""
    for name in names:
        given.out.values["datasets"][name][option] = values.OWN_TEMPLATE if message else value
        given.out.lines["datasets", name, option] = given.old.lines.get((option,), 0)
    home = f"{option} of the dataset{'s' if len(names) > 1 else ''} {', '.join(names)}"
    given.tell(option, "replaced", f"{home}: {message}" if message else home)


def _named(given: _Translator) -> list[tuple[str, dict[str, Any]]]:
    """The datasets as the old file has them, by their names here: what was put in since is not theirs."""
    found, entries = given.out.values.get("datasets"), given.value("datasets")
    if not isinstance(found, dict) or not isinstance(entries, list | dict):
        return []
    old = list(entries.values() if isinstance(entries, dict) else entries)
    return [(name, entry) for name, entry in zip(found, old, strict=False) if isinstance(entry, dict)]


def _conversations(given: _Translator) -> dict[str, dict[str, Any]]:
    """Datasets of type chat_template."""
    found = given.out.values.get("datasets")
    return {n: d for n, d in found.items() if isinstance(d, dict) and d.get("type") == "chat_template"} if isinstance(found, dict) else {}


def _peft(given: _Translator, option: str, value: Any) -> None:
    """`{backend: torchao, weight_dtype: nf4}` asks for a quantised base; whatever else is in it is left out."""
    bits = {"int4": "load_in_4bit", "nf4": "load_in_4bit", "int8": "load_in_8bit"}
    rest = dict(value) if isinstance(value, dict) else {option: value}
    requested = bits.get(str(rest.pop("weight_dtype", None)))
    if requested and rest.pop("backend", "bnb"):
        rest.pop("group_size", None)
        given.put(option, True, to=requested, message="true, of bitsandbytes")
        if requested == "load_in_4bit" and given.value("adapter") == "lora":
            given.out.set(("adapter", "adapter"), "qlora")
    if {key: inner for key, inner in rest.items() if inner is not None}:
        given.tell(f"{option}: {', '.join(rest)}", "left out", PEFT, stops=True)


def _warmup(given: _Translator, option: str, value: Any) -> None:
    if given.value("lr_scheduler") in ("constant", "log_sweep"):
        given.tell(option, "not needed", f"lr_scheduler {given.value('lr_scheduler')} has no warmup")
    else:
        given.put(option, value)


def _model_type(given: _Translator, option: str, value: Any) -> None:
    if re.search("ImageTextToText|Vision|Multimodal", str(value)):
        given.tell(option, "left out", VISION, stops=True)
    else:
        given.put(option, value)


def _bnb(given: _Translator, option: str, value: Any) -> None:
    ours = {"bnb_4bit_use_double_quant": True, "bnb_4bit_quant_type": "nf4", "load_in_4bit": True}
    kept = {"bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"}
    other = {key: v for key, v in value.items() if key not in kept and ours.get(key) != v} if isinstance(value, dict) else value
    if other:
        given.tell(option, "left out", f"4-bit bases are nf4 with double quantisation; {other} is not built", stops=True)
    else:
        given.tell(option, "not needed", "4-bit bases are nf4 with double quantisation")


def _wandb(given: _Translator, option: str, value: Any) -> None:
    if value is False and option == "use_wandb":
        given.put(option, "disabled", to="wandb_mode", message="wandb_mode: disabled")
    else:
        given.tell(option, "not needed", NOT_NEEDED["use_wandb"])


def _evals(given: _Translator, option: str, value: Any) -> None:
    """Evaluations beside a validation set that is not there."""
    if value == 0 and given.value("evaluation_strategy") is None and given.value("eval_strategy") is None:
        given.put(option, "no", to="evaluation_strategy", message="no")
    else:
        given.put(option, value)


def _on_or_nothing(given: _Translator, option: str, value: Any) -> None:
    """`tokenizer_use_fast: false` and the like: one way only."""
    if value is True:
        given.put(option, value)
    else:
        given.tell(option, "not needed", "the tokenizers library encodes everything, slow twins give the same ids")


def _pads(given: _Translator, option: str, value: Any) -> None:
    if value is False:
        given.tell(option, "left out", "samples of a packed row cannot see each other here", stops=True)
    else:
        given.tell(option, "not needed", NOT_NEEDED["pretrain_multipack_attn"])


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("adapter", "wandb_project", "wandb_entity", "wandb_watch", "wandb_run_id", "wandb_name", "wandb_log_model"), _empty),
    **dict.fromkeys(("lora_modules_to_save", "lora_model_dir", "wandb_mode", "resume_from_checkpoint"), _empty),
    **dict.fromkeys(PER_PROCESS, _batch),
    **dict.fromkeys(("fsdp", "fsdp_config"), _fsdp),
    **dict.fromkeys(("chat_template", "chat_template_jinja"), _chat_template),
    **dict.fromkeys(("jagged_restart_steps", "jagged_restart_warmup_steps"), _jagged),
    **dict.fromkeys(("relora_prune_ratio", "relora_cpu_offload"), _prune),
    "base_model_config": _base_model_config,
    "lora_target_modules": _targets,
    "tokens": _tokens,
    "special_tokens": _special_tokens,
    **dict.fromkeys(("warmup_steps", "warmup_ratio"), _warmup),
    **dict.fromkeys(("model_type", "type_of_model"), _model_type),
    "peft": _peft,
    "optimizer": _optimizer,
    "lr_scheduler": _scheduler,
    "cosine_min_lr_ratio": _least_rate,
    "lr_scheduler_kwargs": _scheduler_kwargs,
    "relora": _relora,
    "fsdp_version": _fsdp_version,
    "deepspeed": _deepspeed,
    "plugins": _plugins,
    "max_packed_sequence_len": _max_packed,
    "sequence_len": _sequence_len,
    "sample_packing": _sample_packing,
    "group_by_length": _group_by_length,
    "gradient_checkpointing": _checkpointing,
    "bnb_config_kwargs": _bnb,
    "use_wandb": _wandb,
    "evals_per_epoch": _evals,
    "tokenizer_use_fast": _on_or_nothing,
    "pretrain_multipack_attn": _pads,
}
"""Options that need a look at their value or at others."""
