"""Cross entropy by its formula, with all logits in memory: the reference for `chunked`.

Shapes: M positions, E embedding size, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from encodery.model.ops.masked_cross_entropy import CrossEntropyResult


def masked_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, z_loss: float = 0.0
) -> CrossEntropyResult:
    """features (M, E), weight (V, E), bias (V,), targets (M,) → `CrossEntropyResult`."""
    logits = F.linear(features, weight, bias)
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    log_sum = logits.logsumexp(1)
    real = targets >= 0
    target_logit = logits.gather(1, targets.clamp_min(0)[:, None])[:, 0]
    nll = (log_sum - target_logit).masked_fill(~real, 0.0)
    total = nll.sum() + z_loss * log_sum.square().masked_fill(~real, 0.0).sum()
    return CrossEntropyResult(total, nll.detach(), (real & (target_logit >= logits.amax(1))).detach())
