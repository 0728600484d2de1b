"""Axolotl YAMLs as people have them: import, check, and two steps on a tiny random model of their family."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from click.testing import CliRunner

from axolotl_core.cli.main import main
from tests.conftest import ALPACA, write_jsonl

SMALL = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "llama": {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 4096},
    "falcon": {name: SMALL[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
    "gpt_neox": {**SMALL, "max_position_embeddings": 4096},
    "mpt": {"vocab_size": 512, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 4096},
    "qwen2": {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 4096},
    "phi": {**SMALL, "max_position_embeddings": 4096},
}
END_OF_2023 = "base_model_config: ./tiny\nstrict: false\noutput_dir: ./out\nwandb_project:\ndebug:\nfsdp:\nfsdp_config:\ntf32: true\n"
OLD = {
    "lora on a base of 8 bit": (
        "llama",
        "load_in_8bit: true\nis_llama_derived_model: true\nsequence_len: 4096\nsample_packing: true\npad_to_sequence_len: true\n"
        "adapter: lora\nlora_r: 32\nlora_alpha: 16\nlora_target_linear: true\noptimizer: adamw_bnb_8bit\nbf16: true\nfp16: false\n"
        "flash_attention: true\nwarmup_steps: 10\neval_steps: 20\nsave_steps:\ngradient_accumulation_steps: 4\nmicro_batch_size: 2\n"
        "special_tokens: {eos_token: <|im_end|>}\n" + END_OF_2023,
    ),
    "all weights beside options of an adapter": (
        "falcon",
        "trust_remote_code: true\nadapter:\nlora_r: 64\nlora_alpha: 32\nlora_target_linear: true\nmax_packed_sequence_len:\n"
        "optimizer: paged_adamw_32bit\nxformers_attention: true\nbf16: true\nsequence_len: 256\nearly_stopping_patience: 3\neval_steps: 5\n"
        + END_OF_2023,
    ),
    "max_packed_sequence_len, BetterTransformer": (
        "gpt_neox",
        "max_packed_sequence_len: 256\nsequence_len: 256\nflash_optimum: true\nbfloat16: true\nbf16: false\noptimizer: adamw_hf\n"
        "lr_scheduler: cosine\nlora_r: 8\n" + END_OF_2023,
    ),
    "tokens as a mapping, a repository's modules": (
        "mpt",
        "tokens: {pad_token: <|endoftext|>, bos_token: <|endoftext|>}\nadapter: lora\nlora_r: 8\n"
        "lora_target_modules: [Wqkv, mlp_up, mlp_down]\noptimizer: paged_adamw_32bit\nsequence_len: 256\n" + END_OF_2023,
    ),
    "another class, packed and grouped": (
        "phi",
        "model_type: MixFormerSequentialForCausalLM\ntrust_remote_code: true\nresize_token_embeddings_to_32x: true\nsample_packing: true\n"
        "group_by_length: true\nadam_beta2: 0.95\nadam_eps: 1e-5\nsequence_len: 256\nsample_packing_seq_len_multiplier: 2\n" + END_OF_2023,
    ),
    "of today": (
        "qwen2",
        "plugins:\n  - axolotl.integrations.liger.LigerPlugin\n  - axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin\n"
        "liger_rope: true\nliger_rms_norm: true\nadapter: qlora\nload_in_4bit: true\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n"
        "lora_mlp_kernel: true\nsequence_len: 256\nsample_packing: true\neval_sample_packing: true\n"
        "attn_implementation: flash_attention_2\n"
        "evals_per_epoch: 2\nsaves_per_epoch: 1\nwarmup_ratio: 0.1\noptimizer: adamw_torch_8bit\nlearning_rate: 2e-4\nbf16: auto\n"
        "gradient_checkpointing: true\ngradient_checkpointing_kwargs: {use_reentrant: false}\nactivation_offloading: true\n"
        "fsdp_version: 2\nfsdp_config: {offload_params: true, auto_wrap_policy: TRANSFORMER_BASED_WRAP, reshard_after_forward: true}\n"
        "loss_watchdog_threshold: 50.0\nloss_watchdog_patience: 3\nremove_unused_columns: false\neot_tokens: [<|im_end|>]\nwandb_name:\n",
    ),
}


def call(*words: str) -> str:
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", OLD)
def test_an_old_file_is_imported_checked_and_trained(
    name: str, tmp_path: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch, not_compiled: None
):
    family, options = OLD[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "rows.jsonl", ALPACA)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, bos_token_id=0, eos_token_id=2, **SHAPES[family])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tiny")
    for file in tokenizer_folder.iterdir():
        shutil.copyfile(file, tmp_path / "tiny" / file.name)
    text = f"base_model: ./tiny\ndatasets:\n  - path: data/rows.jsonl\n    type: alpaca\nval_set_size: 0.1\nnum_epochs: 3\n{options}"
    (tmp_path / "old.yml").write_text(text)
    told = call("import", "old.yml", "--num-gpus", "1")
    assert "left out" not in told
    assert "no problems found" in call("check")
    call("preprocess", "old.yml")
    call("train", "--max-steps", "2")
    found = json.loads((tmp_path / "artifacts" / "metrics" / "train.json").read_text())
    assert found["steps"] == 2
    assert found["loss_last"] > 0
