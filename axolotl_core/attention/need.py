"""What a run needs of an attention backend."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

DROPOUTS = ("attention_dropout", "attn_pdrop", "attn_dropout")
"""Names that configs have for the dropout of attention weights."""


@dataclass(frozen=True)
class Need:
    """A model, where and in what it runs, and how rows are laid out.

    model_class: in transformers; config: its config. dtype: what queries, keys and values have. packed: rows hold several samples, which
    the family keeps apart as `method` and `passes_on` say (`models.packing`). requested: params.yaml names this backend.
    """

    model_class: type
    config: Any
    device: torch.device
    dtype: torch.dtype
    packed: bool
    method: Literal["positions", "layers", "mask"] | None
    passes_on: bool = True
    requested: bool = False

    @property
    def by_interface(self) -> bool:
        """Whether attention goes through transformers' AttentionInterface, with whatever arguments the model is called with."""
        has_interface = bool(getattr(self.model_class, "_supports_attention_backend", False))
        return has_interface and self.passes_on and self.method in ("positions", "layers")

    @property
    def not_by_interface(self) -> str:
        """Why a kernel does not fit that has to be told where samples end, where attention does not go through that interface."""
        return f"{self.model_class.__name__} does not pass on where samples end"

    @property
    def head_size(self) -> int:
        """Features of a head's queries and keys."""
        config = self._text
        latent = getattr(config, "qk_head_dim", None)  # DeepSeek
        size = latent or getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(size)

    @property
    def soft_cap(self) -> float | None:
        """Scores are squeezed into ± this much by tanh (Gemma 2)."""
        return getattr(self._text, "attn_logit_softcapping", None)

    @property
    def sinks(self) -> bool:
        """Whether a learned logit a head takes part in the softmax (gpt-oss)."""
        return "gpt_oss" in self._text.model_type or bool(getattr(self._text, "attention_sink", False))

    @property
    def chunk(self) -> int | None:
        """Samples are cut into chunks of so many tokens that do not see each other (Llama 4)."""
        return getattr(self._text, "attention_chunk_size", None)

    @property
    def dropout(self) -> float:
        """Share of attention weights dropped in training."""
        return max(float(getattr(self._text, name, None) or 0) for name in DROPOUTS)

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability of the GPU, (0, 0) elsewhere."""
        return torch.cuda.get_device_capability(self.device) if self.device.type == "cuda" else (0, 0)

    @property
    def _text(self) -> Any:
        return self.config.get_text_config()
