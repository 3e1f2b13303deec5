"""Flash attention over packed sequences, without padding. CUDA, fp16 or bf16; no bias, no dropout, and a reach that
depends on distance alone.

Not run on a GPU yet.
Shapes: T tokens, N heads, D head size.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from encodery.model.ops.attention import AttentionSpec
from encodery.model.shape import Layout


def attend(qkv: Tensor, layout: Layout, spec: AttentionSpec, bias: Tensor | None = None) -> Tensor:
    """qkv (T, 3, N, D) → (T, N, D)."""
    query, key, value = qkv.unbind(1)
    cu, longest = layout.cu_seqlens, layout.max_seqlen
    mixed = varlen_attn(query, key, value, cu, cu, longest, longest, window_size=spec.window)
    assert isinstance(mixed, Tensor)
    return mixed
