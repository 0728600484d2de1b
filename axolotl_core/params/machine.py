"""`machine`: how a result is reached on this machine, never which. An edit re-runs nothing.

Attention, kernels and the like are preferences: what does not fit the machine or the model is replaced by what does, and train
says so in a line. `allow_fallback: false` makes it an error.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core.params.section import Section


class Machine(Section):
    """Settings for this machine (memory, speed, parallelism), which change no result."""

    micro_batch_size: Annotated[int, Field(ge=1)] = 1
    """Rows a forward pass; lower it when memory is short."""
    num_processes: Annotated[int, Field(ge=1)] | None = None
    """Training processes, started under torchrun; unset: one a GPU."""
    dataset_processes: Annotated[int, Field(ge=1)] | None = None
    """Processes that fetch and tokenise, one dataset each; unset: one a core. A single dataset is tokenised by one process,
    whose threads use all cores, or by as many as are given here: that pays off from some sixteen cores on."""
    allow_fallback: bool = True
    """Take the best that fits in the place of an attention, a kernel or the like that does not; false: that is an error."""
    gradient_checkpointing: bool | Literal["offload", "selective"] = False
    """Recompute activations in the backward pass: less memory, about a third more time. `selective`: keep products of matrices and
    attention, whose results take most of that time. `offload`: keep what is left in the machine's memory instead of the GPU's."""
    gradient_checkpointing_kwargs: dict[str, Any] = {}
    """`use_reentrant`, a preference; it is always false here, which gives the same gradients."""
    activation_offloading: bool | str = False
    """Keep activations in the machine's memory until the backward pass, where there is a GPU that they would fill."""
    attn_implementation: str | None = None
    """Attention by its name: flash_attention_3, flash_attention_2, varlen, flex_attention, xformers, sdpa, eager; a preference. Unset,
    like all the switches below: the first of these that fits, and `axolotl check` says which and why; rows of one sample take sdpa.
    varlen is torch's own flash attention for samples of varying length on a GPU, and sdpa sample by sample on a CPU."""
    sdp_attention: bool = False
    """Attention through torch's scaled_dot_product_attention on whole rows; packed ones need a mask of T × T then."""
    eager_attention: bool = False
    """Attention written out: slow, exact, always there."""
    flash_attention: bool = False
    """Flash attention 3 or 2 (extra `flash-attn`, or the package kernels), a preference."""
    flex_attention: bool = False
    """torch's flex attention on a GPU, a preference; soft caps and sinks too."""
    xformers_attention: bool = False
    """xformers' memory-efficient attention on a GPU (extra `xformers`), a preference."""
    flash_optimum: bool = False
    """BetterTransformer of old, which was sdpa: sdp_attention is taken."""
    flash_attn_cross_entropy: bool = False
    """Flash attention's cross-entropy, a preference."""
    flash_attn_rms_norm: bool = False
    """Flash attention's RMS norm, a preference."""
    flash_attn_fuse_qkv: bool = False
    """Query, key and value in one product, a preference."""
    flash_attn_fuse_mlp: bool = False
    """The MLP's first two products in one, a preference."""
    liger_rope: bool = False
    """Liger's rotary embedding, a preference."""
    liger_rms_norm: bool = False
    """Liger's RMS norm, a preference."""
    liger_rms_norm_gated: bool = False
    """Liger's gated RMS norm, a preference."""
    liger_layer_norm: bool = False
    """Liger's layer norm, a preference."""
    liger_glu_activation: bool = False
    """Liger's SwiGLU and GeGLU, a preference."""
    liger_swiglu: bool = False
    """Liger's SwiGLU under its old name, a preference."""
    liger_cross_entropy: bool = False
    """Liger's cross-entropy, a preference."""
    liger_fused_linear_cross_entropy: bool = False
    """Liger's output layer and cross-entropy in one, a preference; the logits are always made a few positions at a time."""
    liger_use_token_scaling: bool = False
    """Liger's scaling of the loss by token, a preference."""
    cut_cross_entropy: bool = False
    """Apple's output layer and cross-entropy in one, a preference."""
    lora_mlp_kernel: bool = False
    """A fused kernel of LoRA in the MLP, a preference."""
    lora_qkv_kernel: bool = False
    """A fused kernel of LoRA for query, key and value, a preference."""
    lora_o_kernel: bool = False
    """A fused kernel of LoRA for the attention's output, a preference."""
    lora_embedding_kernel: bool = False
    """A fused kernel of LoRA for embeddings, a preference."""
    unsloth_cross_entropy_loss: bool = False
    """Unsloth's cross-entropy, a preference."""
    unsloth_lora_mlp: bool = False
    """Unsloth's kernel of LoRA in the MLP, a preference."""
    unsloth_lora_qkv: bool = False
    """Unsloth's kernel of LoRA for query, key and value, a preference."""
    unsloth_lora_o: bool = False
    """Unsloth's kernel of LoRA for the attention's output, a preference."""
    unsloth_rms_norm: bool = False
    """Unsloth's RMS norm, a preference."""
    unsloth_rope: bool = False
    """Unsloth's rotary embedding, a preference."""
    torch_compile: bool | Literal["auto"] = False
    """Compile the decoder layers, a preference; pays off with pad_to_sequence_len, since each new length compiles anew."""
    torch_compile_backend: str | None = None
    """Backend of torch.compile; unset: torch's own choice."""
    torch_compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = None
    """Mode of torch.compile; unset: torch's own choice."""
    tf32: bool | None = None
    """Let matrix products on the GPU round to TF32."""
    fsdp: list[str] | bool | None = None
    """Shard weights, gradients and optimizer over the processes: `[full_shard, auto_wrap]`; shard_grad_op keeps weights unsharded
    between forward and backward, offload keeps them in the machine's memory."""
    fsdp_config: dict[str, Any] = {}
    """`fsdp_transformer_layer_cls_to_wrap` (unset: the model's own), `fsdp_offload_params`,
    `fsdp_sharding_strategy` (HYBRID_SHARD: each machine has a model)."""
    deepspeed: str | None = None
    """A DeepSpeed JSON file with the ZeRO stage, or `zero1`, `zero2`, `zero3`: the ones that come with axolotl."""
    ddp: bool | None = None
    """Data parallel in several processes; it is what happens unless fsdp or deepspeed is set."""
    ddp_timeout: Annotated[int, Field(ge=1)] | None = None
    """Seconds a process waits for the others; unset: 1800."""
    ddp_bucket_cap_mb: Annotated[int, Field(ge=1)] | None = None
    """Size of a bucket of gradients, in MiB; unset: torch's own."""
    ddp_find_unused_parameters: bool | None = None
    """Look for parameters that a step did not use; it is not needed here, where every step uses all that are trained."""
    ddp_broadcast_buffers: bool | None = None
    """Send buffers of rank 0 to all before each pass; unset: torch's own."""
    hf_use_auth_token: bool | None = None
    """Send the hub token of this machine; unset: where there is one (HF_TOKEN, `hf auth login`)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs."""
