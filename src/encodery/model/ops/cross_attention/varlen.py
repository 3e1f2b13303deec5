"""Flash attention of one packed batch to another one, without padding. CUDA, fp16 or bf16; no dropout.

Not run on a GPU yet.
Shapes: T tokens, M tokens of the memory, N heads, D head size.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from encodery.model.shape import Layout


def attend(query: Tensor, key_value: Tensor, layout: Layout, memory: Layout, dropout: float = 0.0) -> Tensor:
    """query (T, N, D), key_value (M, 2, N, D) → (T, N, D)."""
    key, value = key_value.unbind(1)
    mixed = varlen_attn(query, key, value, layout.cu_seqlens, memory.cu_seqlens, layout.max_seqlen, memory.max_seqlen)
    assert isinstance(mixed, Tensor)
    return mixed
