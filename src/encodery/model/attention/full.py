"""Full attention: softmax of scaled dot products over every token within reach. arXiv:1706.03762

Shapes: T tokens, H width, N heads, D head size (N·D may differ from H).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.model.attention import Attention, AttentionModule
from encodery.model.cost import Cost
from encodery.model.head_weights import HeadWeights
from encodery.model.memory import CrossAttention
from encodery.model.ops.attention import AttentionSpec, graph, select_kernel
from encodery.model.ops.relative_attention import grouped
from encodery.model.positions import PositionsModule
from encodery.model.shape import Layout, Shape
from encodery.model.weights import Linear

MAX_KEPT_LENGTH = 512  # longest sequence whose attention weights the CPU keeps


@dataclass(frozen=True, kw_only=True)
class FullAttention(Attention):
    """Use it unless you need something else; local attention is a matter of `mask`, not of this part.

    `bias`: whether the projection to queries, keys and values has a bias; `bias_out`: whether the output projection has
    one. `dropout`: dropout rate of attention weights.

        [model.attention]
        is = "full"
        bias = false
    """

    bias: bool = True
    bias_out: bool = True
    dropout: float = 0.0

    def build(self, shape: Shape) -> AttentionModule:
        return _FullModule(self, shape)

    def build_cross(self, shape: Shape) -> CrossAttention:
        return CrossAttention(shape, bias=self.bias, bias_out=self.bias_out, dropout=self.dropout)

    def cost(self, shape: Shape, length: float) -> Cost:
        """Attention weights are kept on the CPU, for sequences of up to 512 tokens; flash kernels keep one number."""
        inner = shape.heads * shape.head_size
        products = 2.0 * 4 * shape.width * inner + 4.0 * inner * shape.reach.mean_attended(length)
        return Cost(products, shape.width + 4 * inner + shape.heads * (length if length <= MAX_KEPT_LENGTH else 1))

    def without_dropout(self) -> FullAttention:
        return dataclasses.replace(self, dropout=0.0)


class _FullModule(AttentionModule):
    def __init__(self, settings: FullAttention, shape: Shape) -> None:
        super().__init__()
        inner = shape.heads * shape.head_size
        self.shape = shape
        self.dropout = settings.dropout
        self.qkv = Linear(shape.width, 3 * inner, bias=settings.bias)
        self.out = Linear(inner, shape.width, bias=settings.bias_out, role="out")

    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule) -> Tensor:
        shape = self.shape
        qkv = positions.rotate(self.qkv(x), layout, shape).view(-1, 3, shape.heads, shape.head_size)
        bias, reach = positions.bias(layout, shape), layout.reach_of(shape.reach)
        spec = AttentionSpec(
            reach,
            bias=bias is not None,
            dropout=self.dropout if self.training else 0.0,
            prefix=layout.prefix is not None and reach.right is not None,
        )
        terms = positions.relative_terms(self.qkv, layout, shape)
        if terms is not None:
            mixed = grouped.attend(qkv, layout, spec, bias, terms)
        elif torch.compiler.is_compiling():
            mixed = graph.attend(qkv, layout, spec, bias)
        else:
            mixed = select_kernel(qkv.device.type, qkv.dtype, spec)(qkv, layout, spec, bias)
        y: Tensor = self.out(mixed.flatten(1))
        return y

    def head_weights(self) -> list[HeadWeights]:
        sizes = (3, self.shape.heads, self.shape.head_size)
        query, key, value = self.qkv.weight.detach().view(*sizes, -1)
        out = self.out.weight.detach().view(-1, *sizes[1:])
        biases = None if self.qkv.bias is None else self.qkv.bias.detach().view(sizes)
        return [
            HeadWeights(
                query[n],
                key[n],
                value[n],
                out[:, n],
                query_bias=None if biases is None else biases[0, n],
                key_bias=None if biases is None else biases[1, n],
            )
            for n in range(self.shape.heads)
        ]
