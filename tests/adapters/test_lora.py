"""LoRA: which modules, what is written, what does not fit."""

import json
from pathlib import Path

import pytest
import torch

from axolotl_core.adapters import lora
from axolotl_core.artifacts.key import digest_file
from axolotl_core.errors import ModelError
from axolotl_core.models.load import load_model
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def model(model_folder: Path):
    return load_model(model_folder, Machine(device="cpu"), vocabulary=1, packed=False).model


def trained(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def targets(model, **options) -> set[str]:
    attached = lora.attach(model, Adapter(adapter="lora", **options))
    return {name.split(".")[-4] for name, p in attached.named_parameters() if p.requires_grad and "lora_A" in name}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"q_proj", "v_proj"}),
        ({"lora_target_linear": True}, LINEAR),
        ({"lora_target_modules": ["k_proj"]}, {"k_proj"}),
        ({"lora_target_modules": ["embed_tokens"], "lora_target_linear": True}, LINEAR),
    ],
)
def test_the_targets_are_those_asked_for(model, options: dict, wanted: set[str]):
    assert targets(model, **options) == wanted


def test_fresh_updates_change_nothing(model):
    ids = torch.randint(500, (1, 9))
    before = model(ids).logits
    assert torch.equal(lora.attach(model, Adapter(adapter="lora", lora_target_linear=True))(ids).logits, before)


@pytest.mark.parametrize("option", ["lora_target_modules", "lora_modules_to_save"])
def test_a_module_that_is_not_there_is_told_with_those_that_are(model, option: str):
    with pytest.raises(ModelError, match=rf"adapter.{option}: the model has no module 'Wqkv'; its linear modules are down_proj, gate_proj"):
        lora.attach(model, Adapter(adapter="lora", **{option: ["Wqkv"]}))


def test_the_same_adapter_has_the_same_bytes(model_folder: Path, tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        torch.manual_seed(7)
        model = load_model(model_folder, Machine(device="cpu"), vocabulary=1, packed=False).model
        attached = lora.attach(model, Adapter(adapter="lora", lora_target_linear=True))
        lora.save(attached, tmp_path / name, "./model", trained(attached))
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    assert [digest_file(tmp_path / "one" / f) for f in files] == [digest_file(tmp_path / "two" / f) for f in files]
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "./model"
    assert config["target_modules"] == sorted(config["target_modules"])


def test_an_adapter_of_another_shape_is_refused(model_folder: Path, tmp_path: Path, model):
    import transformers

    attached = lora.attach(model, Adapter(adapter="lora"))
    lora.save(attached, tmp_path, "./model", trained(attached))
    config = transformers.AutoConfig.from_pretrained(model_folder, hidden_size=64)
    with pytest.raises(ModelError, match="the adapter does not fit the base model"):
        lora.apply(transformers.AutoModelForCausalLM.from_config(config), tmp_path)
