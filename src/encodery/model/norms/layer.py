"""Layer norm: mean and variance of each row, then a learned scale and shift. arXiv:1607.06450

`bias = false` leaves the shift out, as ModernBERT does.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from encodery.model.norms import Norm


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Norm):
    """`eps` is added to the variance."""

    eps: float = 1e-12
    bias: bool = True

    def build(self, size: int) -> nn.Module:
        return nn.LayerNorm(size, eps=self.eps, bias=self.bias)
