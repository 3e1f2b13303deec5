"""RMS norm: divides each row by its root mean square; no mean is taken. arXiv:1910.07467

Differs from `layer`: rows are not centred. Equals it on rows of mean zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.model.norms import Norm


@dataclass(frozen=True, kw_only=True)
class RMSNorm(Norm):
    """`eps` is added to the mean square; `bias` adds a learned shift."""

    eps: float = 1e-6
    bias: bool = False

    def build(self, size: int) -> nn.Module:
        return _RMSModule(size, self.eps, self.bias)


class _RMSModule(nn.Module):
    def __init__(self, size: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return y if self.bias is None else y + self.bias
