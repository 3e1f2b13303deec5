"""Losses by what they read: pairs with a score, a teacher's scores of several texts, or what another loss reads.

Shapes: B examples, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from encodery.embed.losses import Loss, Target
from encodery.objectives import Count


@dataclass(frozen=True, kw_only=True)
class Scored(Loss):
    """Of pairs, each with its score (B,)."""

    @property
    def target(self) -> Target:
        return "score"

    @property
    def columns(self) -> tuple[int, int | None]:
        return 2, 2


@dataclass(frozen=True, kw_only=True)
class Taught(Loss):
    """Of a teacher's scores (B, C - 1); examples do not depend on each other."""

    @property
    def together(self) -> bool:
        return False

    @property
    def target(self) -> Target:
        return "scores"

    @property
    def columns(self) -> tuple[int, int | None]:
        return 3, None


@dataclass(frozen=True, kw_only=True)
class Around(Loss):
    """`loss`: what is learned besides, and whose data is read."""

    loss: Loss

    @property
    def target(self) -> Target:
        return self.loss.target

    @property
    def columns(self) -> tuple[int, int | None]:
        return self.loss.columns

    @property
    def guided(self) -> bool:
        return self.loss.guided

    def layers(self, depth: int, seed: int) -> tuple[int, ...]:
        return self.loss.layers(depth, seed)

    def counts(self, columns: int, examples: int, target: Tensor | None) -> dict[str, Count]:
        return self.loss.counts(columns, examples, target)
