"""The classifiers of the discourse tasks over pairs of sentence embeddings. Shapes: K width of a vector, G groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from encodery.embed.sentences import GROUPS

STD = 0.005  # of initial weights: small, so that the first predictions are uniform


class DiscourseClassifiers(nn.Module):
    """`order`: a pair → one logit; `conjunction`: a pair → G logits; `following`: what a vector expects next (K)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.order, self.conjunction = nn.Linear(4 * width, 1), nn.Linear(4 * width, len(GROUPS))
        self.following = nn.Linear(width, width, bias=False)
        for layer in (self.order, self.conjunction):
            nn.init.normal_(layer.weight, std=STD)
            nn.init.zeros_(layer.bias)
        nn.init.eye_(self.following.weight)


def pair_features(first: Tensor, second: Tensor) -> Tensor:
    """Return (…, 4K): two unit vectors, their product and their difference, each element of about size 1."""
    scale = first.shape[-1] ** 0.5
    return torch.cat([first * scale, second * scale, first * second * scale**2, (first - second) * scale], dim=-1)
