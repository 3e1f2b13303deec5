"""Cross entropy with all logits in memory: the formula, and the truth for `chunked`.

Shapes: M rows, E embedding width, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.masked_cross_entropy import CrossEntropyResult


def masked_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float = 0.0
) -> CrossEntropyResult:
    """features (M, E), weight (V, E), bias (V,), targets (M,) → `Loss`."""
    logits = F.linear(features, weight, bias)
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    spread = logits.logsumexp(1)
    real = targets >= 0
    chosen = logits.gather(1, targets.clamp_min(0)[:, None])[:, 0]
    nll = (spread - chosen).masked_fill(~real, 0.0)
    total = nll.sum() + z_loss * spread.square().masked_fill(~real, 0.0).sum()
    return CrossEntropyResult(total, nll.detach(), (real & (chosen >= logits.amax(1))).detach())
