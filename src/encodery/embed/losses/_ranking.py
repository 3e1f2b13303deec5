"""The pairwise ranking loss of CoSENT: log(1 + Σ exp(score of the lower label - score of the higher label)).

In n log n instead of n²: sorted by label, with a running log-sum over what is labelled higher. Shapes: B pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_ranking_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return a scalar from scaled similarities (B,) and labels (B,); pairs with equal labels are not compared."""
    ordered, order = labels.sort(stable=True)
    scores = scores[order]
    above = torch.logcumsumexp(-scores.flip(0), dim=0).flip(0)  # log Σ exp(-score) from here up
    above = torch.cat([above, scores.new_full((1,), -torch.inf)])
    first_higher = torch.searchsorted(ordered, ordered, right=True)
    return torch.logsumexp(torch.cat([scores.new_zeros(1), scores + above[first_higher]]), dim=0)
