"""Abstract bases of losses, by what they read. Shapes: B examples, C columns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.embed.losses import Loss, TargetKind
from encodery.objectives import Count


@dataclass(frozen=True, kw_only=True)
class ScoreLoss(Loss):
    """Learns from pairs, each with a similarity score (B,)."""

    @property
    def target_kind(self) -> TargetKind:
        return "score"

    @property
    def column_range(self) -> tuple[int, int | None]:
        return 2, 2


@dataclass(frozen=True, kw_only=True)
class DistillationLoss(Loss):
    """Learns from a teacher's scores (B, C - 1); examples do not depend on each other."""

    @property
    def in_batch(self) -> bool:
        return False

    @property
    def target_kind(self) -> TargetKind:
        return "scores"

    @property
    def column_range(self) -> tuple[int, int | None]:
        return 3, None


@dataclass(frozen=True, kw_only=True)
class WrapperLoss(Loss):
    """Adds something to another `loss`, and reads the data that this one reads."""

    loss: Loss

    @property
    def target_kind(self) -> TargetKind:
        return self.loss.target_kind

    @property
    def column_range(self) -> tuple[int, int | None]:
        return self.loss.column_range

    @property
    def needs_guide(self) -> bool:
        return self.loss.needs_guide

    @property
    def needs_vectors(self) -> bool:
        return self.loss.needs_vectors

    def sample_layers(self, depth: int, seed: int) -> tuple[int, ...]:
        return self.loss.sample_layers(depth, seed)

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return self.loss.counts(columns, examples, target)
