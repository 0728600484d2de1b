"""LoRA through peft."""

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper, load_peft_weights
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import save_file

from axolotl_core.errors import ModelError, one_line
from axolotl_core.models.family import of_family
from axolotl_core.models.text import pattern
from axolotl_core.params.adapter import Adapter

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
OF_MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Types whose kernels take the weights of out_proj past the module, which peft therefore refuses to update."""
PATTERNS = ("lora_rank_pattern", "lora_alpha_pattern")
LAST_NAME = re.compile(r"[^.]+(\.\d+)*$")


def attach(
    model: Any,
    adapter: Adapter,
    initial_adapter: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
    *,
    brought: Collection[str] = (),
) -> PeftModel:
    """Freeze the model and put updates beside the target modules: fresh ones, which start as zero, or those of a folder.

    tell: gets a sentence where a module has another name in transformers than in the repository's own code. brought: for a skeleton,
    what is in the folder (`stored_names`).

    Raises ModelError: a target or module name that the model lacks, a family without usual targets, an adapter that does
    not fit the base, or whose rank and targets are not those of params.yaml.
    """
    if initial_adapter is None:
        attached = _fresh(model, _renamed(model, adapter, tell))
    else:
        _make_room(model, brought)
        attached = apply(model, initial_adapter, trainable=True)
        _same_settings(attached.peft_config["default"], adapter)
    for parameter in attached.parameters():
        if parameter.requires_grad:  # bf16 would round most updates of lora_modules_to_save away
            parameter.data = parameter.data.float()
    return attached


def leave_casts_to_autocast(attached: Any) -> None:
    """For a model that always runs under autocast: an input in 16 bits goes into the product as it is. peft would make a copy of it in
    fp32, for the weights' sake, that autocast rounds back, and keep it for the backward pass."""
    for module in attached.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def cast_saved_modules(attached: Any, dtype: torch.dtype) -> None:
    """For a model in 16 bits that runs without autocast: modules of lora_modules_to_save, whose weights are in fp32, take what the model
    gives them and give what it takes."""

    def take(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value.to(module.weight.dtype) if value.is_floating_point() else value for value in inputs)

    def give(_: Any, __: Any, out: Any) -> Any:
        return out.to(dtype)

    copies = [module.modules_to_save[module.active_adapter] for module in attached.modules() if isinstance(module, ModulesToSaveWrapper)]
    for module in copies if dtype != torch.float32 else ():
        module.register_forward_pre_hook(take)
        module.register_forward_hook(give)


def _other_names(model: Any, requested: Collection[str]) -> dict[str, str]:
    """Those names of a repository's own code that transformers' class has not → its name of the same module."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    known = of_family(model.config, "LORA_NAMES", {})
    return {name: known[name] for name in requested if name not in names and name in known}


def _renamed(model: Any, adapter: Adapter, tell: Callable[[str], None]) -> Adapter:
    requested = adapter.lora_target_modules
    others = _other_names(model, requested)
    if isinstance(requested, str) or not others:
        return adapter
    tell(f"adapter.lora_target_modules: {', '.join(f'{old} is {new} in transformers' for old, new in others.items())}")
    return adapter.model_copy(update={"lora_target_modules": [others.get(name, name) for name in requested]})


def _fresh(model: Any, adapter: Adapter) -> PeftModel:
    check_names(model, adapter)
    targets: Any = adapter.lora_target_modules
    if not isinstance(targets, str):
        targets = list(targets)
        if adapter.lora_target_linear:
            targets = sorted({*targets, *linear(model)})  # peft's own "all-linear" knows no layers of GPTQ
    config = LoraConfig(
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules=targets or None,
        exclude_modules=pattern(model),
        rank_pattern=dict(adapter.lora_rank_pattern),
        alpha_pattern=dict(adapter.lora_alpha_pattern),
        layers_to_transform=list(adapter.peft_layers_to_transform) or None,
        modules_to_save=list(adapter.lora_modules_to_save) or None,
        ensure_weight_tying=bool(adapter.lora_modules_to_save) and tied(model),
        fan_in_fan_out=adapter.lora_fan_in_fan_out,
        use_dora=adapter.peft_use_dora,
        use_rslora=adapter.peft_use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    _check_options(model, adapter)
    try:
        attached = get_peft_model(model, config)
    except ValueError as error:
        dropout = "lora_dropout" in str(error)  # updates of the experts of a mixture cannot have it
        remedy = "set lora_dropout: 0" if dropout else "set lora_target_linear: true or lora_target_modules"
        raise ModelError(f"adapter: {' '.join(str(error).split())}; {remedy}") from None
    _check_patterns(attached, adapter)
    return attached


def _check_options(model: Any, adapter: Adapter) -> None:
    """Raises ModelError for a layer that the model has not, and for a pattern that is no regular expression."""
    for option in PATTERNS:
        for text in getattr(adapter, option):
            try:
                re.compile(text)
            except re.error as error:
                raise ModelError(f"adapter.{option}: '{text}' is not a regular expression: {error}") from None
    if not adapter.peft_layers_to_transform:
        return
    count = model.config.get_text_config().num_hidden_layers
    if beyond := [number for number in adapter.peft_layers_to_transform if number >= count]:
        raise ModelError(f"adapter.peft_layers_to_transform: there is no layer {beyond[0]}; the model has those from 0 to {count - 1}")


def _check_patterns(attached: PeftModel, adapter: Adapter) -> None:
    """Raises ModelError for a pattern of no module with an update, which peft passes over."""
    names = list(layers(attached))
    for option in PATTERNS:
        for text in getattr(adapter, option):
            if not any(get_pattern_key([text], name) == text for name in names):
                raise ModelError(f"adapter.{option}: '{text}' is the end of no module with an update; one is called {names[0]}")


SETTINGS = {
    "lora_r": "r",
    "lora_rank_pattern": "rank_pattern",
    "lora_alpha_pattern": "alpha_pattern",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
}
"""Option → peft's name of it."""


def _same_settings(config: Any, adapter: Adapter) -> None:
    for option in SETTINGS.keys() & adapter.model_fields_set:
        requested, has = getattr(adapter, option), getattr(config, SETTINGS[option])
        if requested != has:
            raise ModelError(
                f"adapter.{option} is {requested}, but the adapter in lora_model_dir has {has}; remove it, or train a fresh adapter"
            )


def check_names(model: Any, adapter: Adapter) -> None:
    """Raises ModelError for a module that params.yaml names and the model has not, or shares."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    listed = _listed(model, adapter)
    others = _other_names(model, listed)
    listed = [others.get(name, name) for name in listed]
    for option, wanted in (("lora_target_modules", listed), ("lora_modules_to_save", adapter.lora_modules_to_save)):
        for name in wanted:
            if name.rpartition(".")[2] not in names:
                known = ", ".join(sorted(linear(model)))
                raise ModelError(f"adapter.{option}: the model has no module '{name}'; its linear modules are {known}")
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    shared = {name.rpartition(".")[2] for name, module in model.named_modules() if id(module) in ends} if tied(model) else set()
    for name in listed:
        if name.rpartition(".")[2] in shared:
            raise ModelError(
                f"adapter.lora_target_modules: '{name}' shares its weight between embeddings and output layer, so an update of one "
                "would change both once merged; name it in lora_modules_to_save instead"
            )


def _listed(model: Any, adapter: Adapter) -> list[str]:
    """lora_target_modules as names. Raises ModelError for an invalid regular expression, or one that matches no linear module."""
    requested = adapter.lora_target_modules
    if not isinstance(requested, str):
        return list(requested)
    try:
        matched = [name for name, _ in model.named_modules() if re.fullmatch(requested, name)]
    except re.error as error:
        raise ModelError(f"adapter.lora_target_modules: '{requested}' is not a regular expression: {error}") from None
    if not matched:
        some = next((name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)), "")
        raise ModelError(
            f"adapter.lora_target_modules: the regular expression '{requested}' matches no module as a whole; one is called {some}"
        )
    return matched


def tied(model: Any) -> bool:
    """Whether embeddings and output layer are one weight."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def linear(model: Any) -> set[str]:
    """Last names of all linear modules but the output layer, of those in a list with the list's; Conv1D of GPT-2 is linear too, and so
    are quantised layers."""
    output = model.get_output_embeddings()
    kinds = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
    others = re.compile(pattern(model) or "")
    modules = [(name, module) for name, module in model.named_modules() if not others.fullmatch(name)]
    names = [name for name, module in modules if type(module).__name__.endswith(kinds) and module is not output]
    unfit = {"out_proj"} if model.config.get_text_config().model_type in OF_MAMBA else set()
    return {found[0] for name in names if (found := LAST_NAME.search(name))} - unfit


def save(model: PeftModel, out: Path, base_model: str, weights: dict[str, Any]) -> None:
    """adapter_config.json and adapter_model.safetensors, the same bytes for the same weights.

    weights: of the parameters that are trained, by the model's names, whole.
    """
    model.peft_config["default"].save_pretrained(str(out))
    files = {file_name(name): weight.contiguous() for name, weight in weights.items()}
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and name not in weights:  # peft wants a tied weight under both of its names
            files[file_name(name)] = weights[first[id(parameter)]].clone()
    save_file(files, out / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model
    config["inference_mode"] = True
    for name in ("target_modules", "modules_to_save"):  # sets, whose order Python draws anew for each process
        if isinstance(config[name], list):
            config[name].sort()
    (out / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / WEIGHTS).chmod(0o644)


def apply(model: Any, folder: Path, *, trainable: bool = False) -> PeftModel:
    """The model with the updates of `folder` beside it. Raises ModelError when they do not fit it."""
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise ModelError(f"{folder}: the adapter does not fit the base model: {' '.join(str(error).split())[:300]}") from None


def stored_names(folder: Path) -> set[str]:
    """Names in an adapter's file. Raises ModelError where it cannot be read."""
    try:
        return set(load_peft_weights(str(folder), device="cpu"))
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: cannot be read as an adapter: {one_line(error)}") from None


def _make_room(model: Any, brought: Collection[str]) -> None:
    """Storage for those weights of a skeleton that an adapter brings: modules_to_save, embeddings that were resized."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if f"base_model.model.{name}" in brought:
            parameter.data = torch.zeros(parameter.shape, dtype=parameter.dtype)


def init_magnitude(layer: Any) -> None:
    """DoRA's magnitude of a module whose base has its weights now; peft takes it when the adapter is made."""
    for name, variant in layer.lora_variant.items() if isinstance(layer, LoraLayer) else ():
        variant.init(layer, name)
        layer.lora_magnitude_vector[name].weight.data = layer.lora_magnitude_vector[name].weight.data.float()


def file_name(name: str) -> str:
    """How a trained parameter is called in the adapter's file: without the name of the adapter in memory."""
    name = name.replace("lora_magnitude_vector.default.weight", "lora_magnitude_vector")
    return name.replace(".modules_to_save.default.", ".").replace(".default", "")


def layers(model: PeftModel) -> dict[str, LoraLayer]:
    """Modules with an update beside them, by the base's own names."""
    return {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def on_meta(base: Any, folder: Path) -> PeftModel:
    """The adapter's structure beside a model of no weights (device meta), for its names and its arithmetic."""
    config = PeftConfig.from_pretrained(str(folder))
    config.base_model_name_or_path = None  # peft warns of any other
    with torch.device("meta"):
        return get_peft_model(base, config)
