"""Layer norm: subtracts the mean, divides by the standard deviation, then scales and shifts. arXiv:1607.06450"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from encodery.model.norms import Norm


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Norm):
    """Use it unless you need something else.

    `eps` is added to the variance; `bias` = false leaves the learned shift out, as in ModernBERT.

        [model.norm]
        is = "layer"
        eps = 1e-5
    """

    eps: float = 1e-12
    bias: bool = True

    def build(self, size: int) -> nn.Module:
        return nn.LayerNorm(size, eps=self.eps, bias=self.bias)
