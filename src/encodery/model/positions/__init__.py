"""How the model knows where a token stands: added to embeddings, turned into queries and keys, or biasing scores."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Layout, Shape


class Positions(Part):
    """A kind of position information."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> PositionsModule:
        """The module, one for all layers."""


@dataclass(frozen=True)
class OffsetPattern:
    """What makes a head look a fixed distance away: `weights` (2, D, E) of its query and key, or `biases` (2, D)."""

    weights: Tensor | None = None
    biases: Tensor | None = None


class PositionsModule(nn.Module):
    """Three places where positions may enter; each does nothing unless a part says otherwise."""

    def add(self, x: Tensor, layout: Layout) -> Tensor:
        """Embeddings (T, E) → (T, E), before the embedding norm."""
        return x

    def rotate(self, qkv: Tensor, layout: Layout, shape: Shape) -> Tensor:
        """Projected (T, 3·N·D) of layer `shape.layer` → the same with queries and keys turned.

        May write into `qkv`, which must be a fresh tensor and no view.
        """
        return qkv

    def bias(self, layout: Layout, shape: Shape) -> Tensor | None:
        """What is added to scores by distance: (N, 2R - 1), entry R - 1 + (key - query), R >= `layout.max_seqlen`."""
        return None

    def init_offset_features(self, std: float, generator: torch.Generator) -> None:
        """First values, as large as those of words of that `spread`, from which `aim` can tell places apart; nothing
        where there is nothing to learn."""

    def offset_pattern(self, offset: int, sharpness: float, shape: Shape) -> OffsetPattern | None:
        """What makes a head of layer `shape.layer` look `offset` tokens away (more than 0: at what follows) with a
        score of about `sharpness`, for inputs (T, E) that are normalised sums of words and positions; None where these
        positions cannot."""
        return None
