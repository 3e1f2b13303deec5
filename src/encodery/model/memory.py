"""A memory: the packed sequences that the sequences of another batch may read, as a decoder reads an encoder's output.

Shapes: T tokens, M tokens of the memory, H width, N heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.errors import InputError
from encodery.model.ops.cross_attention import select_kernel
from encodery.model.shape import Layout, Shape
from encodery.model.weights import Linear


@dataclass(frozen=True, eq=False)
class Memory:
    """Hidden states (M, H) and the layout of their sequences; sequence i of a batch attends to sequence i of these."""

    hidden: Tensor
    layout: Layout

    @staticmethod
    def of_vectors(vectors: Tensor) -> Memory:
        """The memory of sequences that read one vector each: vectors (B, H)."""
        cu_seqlens = torch.arange(len(vectors) + 1, dtype=torch.int32, device=vectors.device)
        return Memory(vectors, Layout(cu_seqlens, 1, len(vectors)))


class CrossAttention(nn.Module):
    """Softmax attention from the tokens of a batch to those of its memory (arXiv:1706.03762), without positions.

    Args:
        shape: The sizes of the layer.
        bias: Whether the projections to queries, keys and values have biases.
        bias_out: Whether the output projection has one.
        dropout: Dropout rate of attention weights.
    """

    def __init__(self, shape: Shape, *, bias: bool = True, bias_out: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        inner = shape.heads * shape.head_size
        self.heads, self.dropout = shape.heads, dropout
        self.query = Linear(shape.width, inner, bias=bias)
        self.key_value = Linear(shape.width, 2 * inner, bias=bias)
        self.out = Linear(inner, shape.width, bias=bias_out, role="out")

    def forward(self, x: Tensor, layout: Layout, memory: Memory) -> Tensor:
        """x (T, H) → (T, H), a new tensor. Raises `InputError` if the memory has another number of sequences."""
        sequences, read = layout.cu_seqlens.numel() - 1, memory.layout.cu_seqlens.numel() - 1
        if sequences != read:
            raise InputError(f"The batch has {sequences} sequences and its memory {read}: each needs a memory.")
        query = self.query(x).view(len(x), self.heads, -1)
        key_value = self.key_value(memory.hidden).view(len(memory.hidden), 2, self.heads, -1)
        dropout = self.dropout if self.training else 0.0
        attend = select_kernel(query.device.type, query.dtype, dropout > 0)
        y: Tensor = self.out(attend(query, key_value, layout, memory.layout, dropout).flatten(1))
        return y
