"""RMS norm: divides by the root mean square, without subtracting the mean. arXiv:1910.07467

Differs from `layer`: values are not centred. Equals it for values of mean zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.model.norms import Norm


@dataclass(frozen=True, kw_only=True)
class RMSNorm(Norm):
    """Use it for a slightly cheaper norm; no stock checkpoint format can express it.

    `eps` is added to the mean square; `bias` adds a learned shift.

        [model.norm]
        is = "rms"
        eps = 1e-6
    """

    eps: float = 1e-6
    bias: bool = False

    def build(self, size: int) -> nn.Module:
        return _RMSNormModule(size, self.eps, self.bias)


class _RMSNormModule(nn.Module):
    def __init__(self, size: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return y if self.bias is None else y + self.bias
