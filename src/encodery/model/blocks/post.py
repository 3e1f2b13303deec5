"""Post-norm block: residual sum, then norm. arXiv:1706.03762

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
class PostNorm(Block):
    """Use it for the architecture of BERT and RoBERTa. Has no settings.

    [model]
    block = "post"
    """

    def build(self, shape: Shape, *, attention: Attention, ffn: FFN, norm: Norm, dropout: float) -> BlockModule:
        return _PostNormModule(shape, attention, ffn, norm, dropout)


class _PostNormModule(BlockModule):
    def __init__(self, shape: Shape, attention: Attention, ffn: FFN, norm: Norm, dropout: float) -> None:
        super().__init__(shape)
        self.attention = attention.build(shape) if self.has_attention else AbsentSublayer()
        self.attention_norm = norm.build(shape.width) if self.has_attention else AbsentSublayer()
        if shape.reads_memory:
            self.cross_attention = attention.build_cross(shape)
            self.cross_attention_norm = norm.build(shape.width)
        self.ffn = ffn.build(shape) if self.has_ffn else AbsentSublayer()
        self.ffn_norm = norm.build(shape.width) if self.has_ffn else AbsentSublayer()
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, layout: Layout, positions: PositionsModule, memory: Memory | None = None) -> Tensor:
        if self.has_attention:
            mixed = self.after_attention(self.run("attention", self.attention, x, layout, positions), x)
            x = self.attention_norm(add_residual(self.drop(mixed), x))
        if self.cross_attention is not None:
            x = self.cross_attention_norm(add_residual(self.drop(self.read_memory(x, layout, memory)), x))
        if self.has_ffn:
            x = self.ffn_norm(add_residual(self.drop(self.after_ffn(self.run("ffn", self.ffn, x), x)), x))
        return x
