"""`machine`: how a result is reached on this machine, never which. An edit re-runs nothing."""

from typing import Annotated, Any, Literal

from pydantic import Field

from axolotl_core.params.section import Built, Section


class Machine(Section):
    """How a result is reached on this machine, never which."""

    micro_batch_size: Annotated[int, Field(ge=1)] = 1
    """Rows a forward pass; lower it when memory is short."""
    num_processes: Annotated[int | None, Built(1)] = None
    """Training processes; unset: one."""
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
    torch_compile: Annotated[bool, Built()] = False
    """Compile the model."""
    torch_compile_backend: Annotated[str | None, Built()] = None
    """Backend of torch.compile."""
    tf32: bool | None = None
    """Let matrix products on the GPU round to TF32."""
    fsdp: Annotated[list[str] | bool | None, Built()] = None
    """Fully sharded data parallel."""
    fsdp_config: Annotated[dict[str, Any], Built()] = {}
    """Its settings."""
    deepspeed: Annotated[str | None, Built()] = None
    """A DeepSpeed JSON file."""
    ddp: Annotated[bool | None, Built()] = None
    """Distributed data parallel."""
    ddp_timeout: Annotated[int | None, Built()] = None
    """Seconds a collective may take."""
    ddp_bucket_cap_mb: Annotated[int | None, Built()] = None
    """Size of a gradient bucket, in MiB."""
    ddp_broadcast_buffers: Annotated[bool | None, Built()] = None
    """Send buffers of rank 0 to all."""
    hf_use_auth_token: bool = False
    """Use the hub token of this machine for private repositories."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs."""
