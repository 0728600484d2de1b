"""The machine section is a preference: what does not fit is replaced, and said; data stages never look at it."""

from pathlib import Path

import pytest

from axolotl_core.errors import MachineError, ParamsError
from axolotl_core.params.fallbacks import KERNELS, settle
from axolotl_core.params.load import load
from axolotl_core.params.machine import Machine
from axolotl_core.params.params import Params
from tests.conftest import edit, stage

BASE = "model:\n  base_model: x\ndatasets:\n  a: {path: x}\n"


def params(tmp_path: Path, text: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(BASE + text)
    return load(path)


@pytest.mark.parametrize(
    ("text", "option", "wanted", "told"),
    [
        (
            "machine: {lora_mlp_kernel: true}\n",
            "lora_mlp_kernel",
            False,
            "machine.lora_mlp_kernel: not built yet, PyTorch's own layers run",
        ),
        ("machine: {unsloth_cross_entropy_loss: true}\n", "unsloth_cross_entropy_loss", False, "logits are made a few positions at a time"),
        ("machine: {flash_optimum: true}\n", "sdp_attention", True, "BetterTransformer is gone from the libraries"),
        ("machine: {activation_offloading: disk}\n", "activation_offloading", True, "are kept in the machine's memory"),
        ("machine: {gradient_checkpointing: selective, torch_compile: true}\n", "gradient_checkpointing", True, "computed again"),
        ("machine: {ddp: true, fsdp: true}\n", "ddp", None, "machine.ddp: fsdp takes its place"),
        ("adapter: {adapter: lora, relora_steps: 5}\nmachine: {fsdp: true}\n", "fsdp", None, "weights that ReLoRA merges"),
        ("training: {optimizer: lion_8bit}\nmachine: {fsdp: true}\n", "fsdp", None, "cannot shard the state of lion_8bit"),
        ("training: {optimizer: sgd}\nmachine: {deepspeed: zero2}\n", "deepspeed", None, "cannot shard the state of sgd"),
        ("machine: {fsdp: true, fsdp_config: {sharding_strategy: NO_SHARD}}\n", "fsdp", None, "plain data parallel"),
        ("machine: {fsdp: true, fsdp_config: {version: 1}}\n", "fsdp_config", {}, "FSDP 2 is taken"),
        (
            "machine: {fsdp: true, fsdp_config: {activation_checkpointing: true}}\n",
            "gradient_checkpointing",
            True,
            "gradient_checkpointing here",
        ),
    ],
)
def test_what_does_not_fit_is_replaced_and_said_or_an_error(tmp_path: Path, text: str, option: str, wanted: object, told: str):
    asked = params(tmp_path, text)
    settled, notices = settle(asked)
    assert getattr(settled.machine, option) == wanted
    assert len(notices) == 1
    assert told in notices[0]
    assert settle(settled) == (settled, []), "what is settled stays so"
    strict = asked.model_copy(update={"machine": asked.machine.model_copy(update={"allow_fallback": False})})
    with pytest.raises(MachineError, match=r"\(machine.allow_fallback is false\)"):
        settle(strict)


def test_kernels_are_told_in_one_line_a_kind(tmp_path: Path):
    settled, notices = settle(params(tmp_path, "machine: {lora_o_kernel: true, unsloth_rope: true, liger_use_token_scaling: true}\n"))
    assert [notice.split(":")[0] for notice in notices] == ["machine.lora_o_kernel, unsloth_rope", "machine.liger_use_token_scaling"]
    assert not any(getattr(settled.machine, option) for option in KERNELS)


def test_every_kernel_is_a_switch_of_the_machine_section():
    assert set(KERNELS) <= set(Machine.model_fields)


def test_what_cannot_be_settled_is_told(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"machine.fsdp and machine.deepspeed are both set"):
        settle(params(tmp_path, "machine: {fsdp: true, deepspeed: zero2}\n"))
    with pytest.raises(ParamsError, match=r"got 'full_shrad', wanted some of .*; did you mean 'full_shard'"):
        settle(params(tmp_path, "machine: {fsdp: [full_shrad]}\n"))


def test_data_stages_never_look_at_the_machine_section(project: Path):
    edit(project / "params.yaml", "  dataset_processes: 1", "  dataset_processes: 1\n  fsdp: [nonsense]\n  deepspeed: none.json")
    stage("pack", "machine.attn_implementation=whatever", "machine.allow_fallback=false")


def test_train_takes_the_best_that_fits_and_says_so(project: Path, capfd):
    stage(
        "train",
        "machine.flash_attention=true",
        "machine.liger_rms_norm=true",
        "training.max_steps=1",
        "machine.torch_compile=true",
        "machine.torch_compile_backend=nothing",
    )
    told = capfd.readouterr().out
    assert told.count("machine.liger_rms_norm: it runs on a GPU, not on cpu; PyTorch's own layers run") == 1
    assert told.count("machine: flash_attention_3 attention does not fit: it runs on a GPU, not on cpu; varlen is taken") == 1
    assert "machine.torch_compile: does not work on this machine" in told
