"""What became of Axolotl's options: those with another name here, those that are not needed, those that are left out.

An option that is named here nowhere keeps its name and goes to the section that declares it. The names are those of Axolotl's
README of October 2023 and of its pydantic schemas of 2026 (github.com/axolotl-ai-cloud/axolotl).
"""

import re
from collections.abc import Mapping

RENAMED = {
    "push_to_hub_model_id": "hub_model_id",
    "load_4bit": "load_in_4bit",
    "use_auth_token": "hf_use_auth_token",
    "eval_strategy": "evaluation_strategy",
    "adam_eps": "adam_epsilon",
    "excess_length_strategy": "excess_length",
    "revision_of_model": "model_revision",
    "type_of_model": "model_type",
    "dataset_num_proc": "dataset_processes",
    "eval_max_new_tokens": "eval_table_max_new_tokens",
    "use_tensorboard": "tensorboard",
    "noisy_embedding_alpha": "neftune_noise_alpha",
    "jagged_restart_steps": "relora_steps",
    "jagged_restart_warmup_steps": "relora_warmup_steps",
}
"""Axolotl's name → ours."""

FAMILY = "the family is read from the model's own config"
COUNTED = "counted in artifacts/packed/manifest.json"
LOADER = "rows are read from memory-mapped files, a batch costs microseconds"
EXACT_PACKING = "packing is planned exactly before the first step"
RESULTS = "results lie in artifacts/adapter, artifacts/merged and artifacts/export"
MACHINE_SAYS = "the machine section says where the model runs"
APART = "packed samples never see each other"
NOT_NEEDED: Mapping[str, str] = {
    **dict.fromkeys((f"is_{family}_derived_model" for family in ("falcon", "llama", "mistral", "qwen", "btlm")), FAMILY),
    **dict.fromkeys(
        (
            "sample_packing_eff_est",
            "sample_packing_seq_len_multiplier",
            "sample_packing_group_size",
            "sample_packing_bin_size",
            "sample_packing_mp_start_method",
            "multipack_real_batches",
            "streaming_multipack_buffer_size",
            "pretrain_multipack_buffer_size",
        ),
        EXACT_PACKING,
    ),
    **dict.fromkeys(("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor", "dataset_keep_in_memory"), LOADER),
    "total_num_tokens": f"tokens are {COUNTED}",
    "total_supervised_tokens": f"target tokens are {COUNTED}",
    "dataset_prepared_path": "prepared data lies in artifacts/ under content keys",
    "push_dataset_to_hub": "prepared data is shared with `axolotl push`",
    "skip_prepare_dataset": "each dataset is prepared by its own stage",
    "remove_unused_columns": "a format reads the columns it wants",
    "streaming": "rows are read one by one from any source",
    "batch_flattening": "sample_packing lays samples side by side without padding",
    "pretrain_multipack_attn": APART,
    "output_dir": RESULTS,
    "lora_out_dir": "the adapter lies in artifacts/adapter",
    "save_only_model": "checkpoints hold all that an exact resume needs; `axolotl cache` trims them",
    "save_safetensors": "weights are always written as safetensors",
    "tokenizer_save_jinja_files": "the chat template is exported with the tokenizer",
    "local_rank": "torchrun gives the rank",
    "world_size": "torchrun gives the number of processes",
    "strict": "an unknown option is always an error",
    "device_map": MACHINE_SAYS,
    "max_memory": MACHINE_SAYS,
    "gpu_memory_limit": MACHINE_SAYS,
    "low_cpu_mem_usage": "weights are always read file by file",
    "lora_on_cpu": "merge works shard by shard on the CPU",
    "merge_lora": "merge is a stage, `axolotl stage merge`",
    "merge_method": "merge works shard by shard",
    "qlora_sharded_model_loading": "weights are always read file by file",
    "experimental_skip_move_to_device": "weights go to the device when they are cut over the processes",
    "accelerator_config": "batches are cut the same way for any number of processes",
    "include_tokens_per_second": "tokens/s is always in plots/train.csv",
    "include_tkps": "tokens/s is always in plots/train.csv",
    "fsdp_final_state_dict_type": "checkpoints and results hold whole tensors",
    "eot_tokens": "the chat template itself shows which token ends a turn (train_on_eot)",
    "eval_causal_lm_metrics": "perplexity and accuracy are always taken",
    "do_causal_lm_eval": "perplexity and accuracy are always taken",
    "peft_autocast_adapter_dtype": "updates are always trained in fp32",
    "peft_ensure_weight_tying": "tied weights stay tied",
    "embeddings_skip_upcast": "trained embeddings have fp32 master weights",
    "torchdistx_path": "torchdistx is no longer maintained; use adamw_torch_fused",
    "debug": "`axolotl view` shows rows token by token",
    "inference": "`axolotl inference` is a command",
    "shard": "merge and export write shards by themselves",
    "is_preprocess": "`axolotl stage pack` prepares data only",
    "preprocess_iterable": "rows are read one by one from any source",
    "axolotl_config_path": "params.yaml is the file",
    "use_wandb": "a wandb_project switches Weights & Biases on",
    "gradient_accumulation_steps": "it follows from batch_size, the rows of a step over all processes, and machine.micro_batch_size",
    "auto_find_batch_size": "an out-of-memory error says which option to lower, and by how much",
    "gc_steps": "garbage is collected by Python and torch themselves",
}
"""Option → why nothing is lost without it."""

KERNELS = "PyTorch's own layers run"
PROCESSES = "several processes train data parallel, with fsdp or deepspeed where the model does not fit"
TRACKERS = "runs are tracked by Weights & Biases and TensorBoard"
HUB = "nothing is pushed to the hub yet; the model lies in artifacts/export"
MEASURED = "not measured by this version"
WITHOUT: Mapping[str, str] = {
    r"ring_attn_func|heads_k_stride|context_parallel|context_parallel_.*|sequence_parallel_degree|tensor_parallel_size|dp_(shard|replicate)_size|"
    r"expert_parallel_size|expert_parallel_.*|moe_ep_.*|pipeline_parallel_.*": PROCESSES,
    r"experts_implementation|use_scattermoe|use_sonicmoe|sonicmoe_.*|scattermoe_.*|use_kernels|use_hub_kernels|fused_attn_kernel|"
    r"fused_.*_kernel|llama4_linearized_experts|tiled_mlp.*|torchao_.*_kernel|flex_attn_compile_kwargs|gemma4_hybrid_attn_impl|use_deep_?ep|flash_mla|moe_kernels|use_dsv4_.*|dsv4_.*|"
    r"use_onebitllms_kernels|mamba_kernel.*|moe_.*_kernel|sage_attention|.*_use_kernel|moe_backend": KERNELS,
    r"quantize_moe_experts": "experts that are one fused weight stay in the base's own format, which takes more memory",
    r"use_mlflow|mlflow_.*|hf_mlflow_.*|use_comet|comet_.*|use_trackio|trackio_.*|use_swanlab|swanlab_.*|use_otel.*|otel_.*|"
    r"use_opentelemetry|opentelemetry_.*": TRACKERS,
    r"gradio_.*": "`axolotl inference` chats in the terminal",
    r"use_ray|ray_.*|resources_per_worker|cloud|launcher|launcher_args": "training starts itself under torchrun, not by Ray or in a cloud",
    r"profiler_.*|use_profiler": "no profiler is built in",
    r"save_first_step": "Ctrl-C writes a checkpoint after any step",
    r"hub_model_id|hub_strategy|hub_revision|hub_private_repo|push_to_hub.*": HUB,
    r"do_bench_eval|bench_dataset|bench_split|bench_source_max_len|lm_eval_.*|benchmark_.*|eval_metrics": MEASURED,
    r"dynamic_checkpoint": "SIGINT and SIGTERM write a checkpoint and end the run",
    r"(axolotl_)?telemetry|generate_samples|num_generation_samples|generation_.*": "evaluate answers eval_table_size prompts",
    r"vllm|vllm_.*": "no server of vLLM is started",
}
"""Pattern of options → what happens instead. None of them changes a result."""

PREFERENCE = "a preference or reinforcement method (DPO, KTO, ORPO, GRPO, reward models …); this version trains on texts and conversations"
VISION = "images and sound; this version trains the text"
QUANTISED = "training in 8 or 4 bit floats or with a quantised forward pass is not built"
DISTILLED = "distillation from another model is not built"
POSITIONS = "other positions or attention than the model's own are not built"
NEW_WEIGHTS = "loading the base's weights otherwise than they are stored is not built"
OPTIMIZER = "not built for the optimizers there are"
PEFT = "an adapter of another kind or with other beginnings than LoRA, DoRA, rsLoRA is not built"
ORDER = "rows are shuffled before they are packed"
COMPRESSED = "training with pruned or compressed weights is not built"
LOSS = "another loss than the cross-entropy of the target tokens is not built"
LEFT_OUT: Mapping[str, str] = {
    r"rl|trl|dpo_.*|orpo_.*|rpo_.*|simpo_.*|cpo_.*|kto_.*|grpo_.*|gdpo_.*|rl_.*|ipo_.*|gkd.*|opd.*|reward_model|process_reward_model|"
    r"num_labels|max_prompt_len|center_rewards_coefficient|ebft.*|nemo_gym_.*|async_.*|reward_.*|rollout_.*|precompute_ref_log_probs|"
    r"replay_.*|reference_model|ref_model.*|hatchery.*|tinker.*": PREFERENCE,
    r"processor_.*|image_.*|freeze_mm_modules|multimodal_.*|vision_.*|audio_.*|video_.*|max_pixels|min_pixels": VISION,
    r"qat|qat_.*|quantization|quantize_.*|fp8|fp8_.*|nvfp4.*|mxfp4.*|model_quantization_config.*|use_bitnet|bitnet_.*": QUANTISED,
    r"kd_.*|teacher_.*": DISTILLED,
    r"spectrum_.*|lisa_.*|mod_.*": "training a moving or measured part of the layers is not built",
    r"diffusion|diffusion_.*|block_diffusion.*": "diffusion language models are not built",
    r"use_eaft|eaft_.*|use_dynamic_finetuning|use_dft|dft_.*|chunked_cross_entropy.*|z_loss.*|label_smoothing.*|"
    r"channel_loss.*": LOSS,
    r"xpos_rope|landmark_attention|rope_(?!scaling$).*|use_pose|pose_.*|s2_attention|overrides_of_model_kwargs|use_yarn|yarn_.*": POSITIONS,
    r"overrides_of_model_config|model_config|cls_model_config|config_overrides|model_kwargs": "changing the base's config is not built",
    r"reinit_weights|init_from_scratch|shrink_embeddings|mean_resizing_embeddings|added_tokens_overrides|fix_untrained_tokens|"
    r"tokenizer_use_mistral_common|aux_loss_.*|router_aux_.*|moe_aux_.*|aux_free_.*|load_balancing_.*": NEW_WEIGHTS,
    r"embedding_lr|embedding_lr_scale|lr_groups|optim_.*|adam_beta3|adam_epsilon2|eta_min|dion_.*|muon_.*|galore_.*|apollo_.*|"
    r"rank_fraction|flash_optim|flash_optimizer.*|use_flash_?optim|use_flash_?optimizer.*|master_weight_bits": OPTIMIZER,
    r"cosine_constant_lr_ratio|jagged_restart_anneal_steps": "the end or the restart of the schedule in this form is not built",
    r"peft|peft_init_lora_weights|peft_layers_(?!to_transform$).*|peft_layer_replication|peft_trainable_token_indices|lora_target_parameters|"
    r"lora_bias|ia3_.*|peft_adapter|randlora.*|mora.*|loha.*|lokr.*|vera.*|oft.*|relora_prune_method|"
    r"lora_exclude_modules": PEFT,
    r"curriculum_sampling|sample_packing_sequentially|sample_packing_drop_.*|dataset_mix.*|dataset_weight.*": ORDER,
    r"min_sample_len|sample_weight.*|max_sample_len": "leaving samples out by such a rule is not built",
    r"default_system_message": "give conversations without one a system message in the data, or a chat template of your own that writes it",
    r"base_model_config": "the model's own config.json is read",
    r"pretraining_sample_concatenation": "samples of a packed row cannot see each other here",
    r"dataloader_drop_last": "the last rows of an epoch are always trained on",
    r"neat_packing|lora_plus_.*": "not built",
    r"llmcompressor.*|sparse_.*": COMPRESSED,
    r"dense_mixer|densemixer.*": "training all experts of a mixture for each token is not built",
    r"float32": "bf16: false and fp16: false train in fp32",
}
"""Pattern of options → what they are. They change the result, so a flat file that sets one is not run as it is."""

PLUGINS = {
    "LigerPlugin": None,
    "CutCrossEntropyPlugin": "cut_cross_entropy",
}
"""Class of a plugin → the switch of the machine section that it is; None: its switches are options of their own."""
PLUGIN_REASONS = {
    r".*(spectrum|lisa).*": "training a moving or measured part of the layers is not built",
    r".*(kd|distill).*": DISTILLED,
    r".*(grokfast|muon|dion|optim|apollo|galore).*": OPTIMIZER,
    r".*(ebft|nemo|hatchery|rl|reward|gkd).*": PREFERENCE,
    r".*(llm_?compressor|sparse).*": COMPRESSED,
    r".*(diffusion).*": "diffusion language models are not built",
    r".*(swanlab|otel|mlflow|benchmark|lm_eval).*": TRACKERS,
    r".*(kernel|moe|expert|nemotron|flash|sonic|scatter|parallel|fsa).*": KERNELS,
}
"""Pattern of a plugin's path, in small letters → what it is for."""


def found_in(table: Mapping[str, str], option: str) -> str | None:
    """The text of the first pattern that is the whole option."""
    return next((message for pattern, message in table.items() if re.fullmatch(pattern, option)), None)
