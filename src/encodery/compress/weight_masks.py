"""Masks of pruned weights: they only ever lose entries, and pruned weights are zero after every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from encodery.base.errors import CheckpointError


class WeightMasks:
    """Which entries of some weights are kept; all of them at first.

    Args:
        weights: the weights (O, I) of linear layers, by name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        self.kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}

    def keep_highest(self, scores: Mapping[str, Tensor], sparsity: float) -> None:
        """Prune each weight to a fraction `sparsity` of zeros: of the entries still kept, those with the lowest scores.

        `scores` (O, I) by name. Entries that are pruned already stay pruned, whatever their scores.
        """
        for name, kept in self.kept.items():
            number = round(sparsity * kept.numel()) - int((~kept).sum())
            if number > 0:
                remaining = scores[name].detach().masked_fill(~kept, torch.inf).flatten()
                kept.view(-1)[remaining.argsort(stable=True)[:number]] = False

    def apply(self) -> None:
        """Set pruned weights to zero."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.mul_(self.kept[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, pruned weights are zero; outside, they are what they were, such as those of an average."""
        before = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(before[name])

    @property
    def sparsity(self) -> float:
        """The fraction of the entries that is pruned."""
        total = sum(kept.numel() for kept in self.kept.values())
        return sum(int((~kept).sum()) for kept in self.kept.values()) / total

    def load(self, kept: Mapping[str, Tensor]) -> None:
        """Take over masks. Raises `CheckpointError` if they are those of another model."""
        wrong = set(kept) ^ set(self.kept) or {n for n, mask in self.kept.items() if kept[n].shape != mask.shape}
        if wrong:
            raise CheckpointError(f"The masks of pruned weights are another model's; first difference: '{min(wrong)}'.")
        for name, mask in self.kept.items():
            mask.copy_(kept[name])
