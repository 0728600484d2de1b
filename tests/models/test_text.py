"""A checkpoint of text and images: its text part is trained, the rest stays, and it is exported whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from axolotl_core.models.weights import weight_files
from tests.conftest import LORA, edit, stage
from tests.families import config_of, write_base


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("targets", ["  lora_target_linear: true\n", "  lora_target_modules: [q_proj, v_proj]\n", None], ids=str)
def test_the_text_part_alone_is_trained(project: Path, capsys, targets: str | None):
    write_base(project, config_of("gemma3"), torch.float32)
    if targets is None:
        edit(project / "params.yaml", LORA, "  adapter:\n")
    else:
        edit(project / "params.yaml", "  lora_target_linear: true\n", targets)
    stage("export", "training.max_steps=3")
    told = capsys.readouterr().out
    assert "the text part is trained; model.vision_tower, model.multi_modal_projector stay as they are, and are exported with it" in told
    before, after = tensors(project / "model"), tensors(project / "artifacts" / "export")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if "vision" in name or "projector" in name]
    if targets is not None:
        adapter = load_file(project / "artifacts" / "adapter" / "adapter_model.safetensors")
        assert not [name for name in adapter if "vision" in name]
