"""Pre-norm block: norm, then sublayer, then residual sum; one more norm follows the last block. arXiv:2002.04745

Differs from `post`: the residual stream itself is never normalised.
Shapes: T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from encodery.model.attention import Attention
from encodery.model.blocks import Block, BlockModule
from encodery.model.blocks._absent import AbsentSublayer
from encodery.model.blocks._residual import add_residual
from encodery.model.ffn import FFN
from encodery.model.memory import Memory
from encodery.model.norms import Norm
from encodery.model.positions import PositionsModule
from encodery.model.shape import Layout, Shape


@dataclass(frozen=True, kw_only=True)
class PreNorm(Block):
    """Use it for deep models, which train more stably with it.

    `first_norm` = false leaves out the first norm of layer 0, for embeddings that are normalised already.

        [model.block]
        is = "pre"
        first_norm = false
    """

    first_norm: bool = True

    def build(self, shape: Shape, *, attention: Attention, ffn: FFN, norm: Norm, dropout: float) -> BlockModule:
        skip = shape.layer == 0 and not self.first_norm
        first = nn.Identity() if skip else norm.build(shape.width)
        return _PreNormModule(shape, attention, ffn, first, norm, dropout)

    def final(self, shape: Shape, norm: Norm) -> nn.Module:
        return norm.build(shape.width)


class _PreNormModule(BlockModule):
    def __init__(
        self, shape: Shape, attention: Attention, ffn: FFN, first: nn.Module, norm: Norm, dropout: float
    ) -> None:
        super().__init__(shape)
        self.attention_norm = first if self.has_attention else AbsentSublayer()
        self.attention = attention.build(shape) if self.has_attention else AbsentSublayer()
        if shape.reads_memory:
            self.cross_attention_norm = norm.build(shape.width)
            self.cross_attention = attention.build_cross(shape)
        self.ffn_norm = norm.build(shape.width) if self.has_ffn else AbsentSublayer()
        self.ffn = ffn.build(shape) if self.has_ffn else AbsentSublayer()
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule, memory: Memory | None = None) -> Tensor:
        if self.has_attention:
            normed = self.attention_norm(x)
            mixed = self.run("attention", self.attention, normed, layout, positions)
            x = add_residual(self.drop(self.after_attention(mixed, normed)), x)
        if self.cross_attention is not None:
            added = self.read_memory(self.cross_attention_norm(x), layout, memory)
            x = add_residual(self.drop(added), x)
        if self.has_ffn:
            normed = self.ffn_norm(x)
            x = add_residual(self.drop(self.after_ffn(self.run("ffn", self.ffn, normed), normed)), x)
        return x
