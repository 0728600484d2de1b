"""`machine`: how a result is reached on this machine, never which. An edit re-runs nothing."""

from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section


class Machine(Section):
    """How a result is reached on this machine, never which."""

    micro_batch_size: Annotated[int, Field(ge=1)] = 1
    """Rows a forward pass; lower it when memory is short."""
    num_processes: Annotated[int, Field(ge=1)] | None = None
    """Training processes, started under torchrun; unset: one a GPU."""
    dataset_processes: Annotated[int, Field(ge=1)] | None = None
    """Processes that fetch and tokenise, one data set each; unset: one a core. A single data set is tokenised by one process,
    whose threads use all cores, or by as many as are given here: that pays off from some sixteen cores on."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    sdp_attention: bool = False
    """Attention through torch's scaled_dot_product_attention; unset like all its rivals: the best that fits."""
    eager_attention: bool = False
    """Attention written out: slow, exact, always there."""
    flash_attention: Annotated[bool, Built()] = False
    """Flash attention (package flash-attn, GPU)."""
    xformers_attention: Annotated[bool, Built()] = False
    """xformers' memory-efficient attention (GPU)."""
    flash_optimum: Annotated[bool, Built()] = False
    """BetterTransformer of old."""
    flash_attn_cross_entropy: Annotated[bool, Built()] = False
    """Flash attention's cross entropy."""
    flash_attn_rms_norm: Annotated[bool, Built()] = False
    """Flash attention's RMS norm."""
    torch_compile: bool = False
    """Compile the decoder layers; pays off with pad_to_sequence_len, since each new length compiles anew."""
    torch_compile_backend: str | None = None
    """Backend of torch.compile; unset: torch's own choice."""
    tf32: bool | None = None
    """Let matrix products on the GPU round to TF32."""
    fsdp: list[str] | bool | None = None
    """Cut weights, gradients and optimizer over the processes: `[full_shard, auto_wrap]`; shard_grad_op keeps weights whole
    between forward and backward, offload keeps them in the machine's memory."""
    fsdp_config: dict[str, Any] = {}
    """`fsdp_version` (2, or 1 on request), `fsdp_transformer_layer_cls_to_wrap` (unset: the model's own), `fsdp_offload_params`."""
    deepspeed: str | None = None
    """A DeepSpeed JSON file with the ZeRO stage, or `zero1`, `zero2`, `zero3`: the ones that come with axolotl."""
    ddp: bool | None = None
    """Data parallel in several processes; it is what happens unless fsdp or deepspeed is set."""
    ddp_timeout: Annotated[int, Field(ge=1)] | None = None
    """Seconds a process waits for the others; unset: 1800."""
    ddp_bucket_cap_mb: Annotated[int, Field(ge=1)] | None = None
    """Size of a bucket of gradients, in MiB; unset: torch's own."""
    ddp_broadcast_buffers: bool | None = None
    """Send buffers of rank 0 to all before each pass; unset: torch's own."""
    hf_use_auth_token: bool | None = None
    """Send the hub token of this machine; unset: where there is one (HF_TOKEN, `hf auth login`)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs."""
