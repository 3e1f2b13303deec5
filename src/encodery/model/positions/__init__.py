"""Position information: added to embeddings, as a rotation of queries and keys, or as a bias of attention scores."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.head_weights import OffsetPattern
from encodery.model.shape import Layout, Shape

PositionKind = Literal["embeddings", "rotation", "bias"]
"""Added to the embeddings, as a rotation of queries and keys, or added to scores."""


class Positions(Part):
    """A kind of position information."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> PositionsModule:
        """The module, one for all layers."""

    @property
    @abc.abstractmethod
    def kinds(self) -> frozenset[PositionKind]:
        """Where these positions enter the model; an attention may refuse some kinds."""

    def incompatibility(self, shape: Shape) -> str | None:
        """Why these positions cannot be used in a model of this shape; None if they can.

        The reason completes the sentence "positions = 'rotary': ...".
        """
        return None


class PositionsModule(nn.Module):
    """Three places where positions can enter the model. Abstract; each does nothing unless overridden."""

    def add(self, x: Tensor, layout: Layout) -> Tensor:
        """Embeddings (T, E) → (T, E), before the embedding norm; kind `embeddings`."""
        return x

    def rotate(self, qkv: Tensor, layout: Layout, shape: Shape) -> Tensor:
        """Projections (T, 3·N·D) of layer `shape.layer` → the same with rotated queries and keys; kind `rotation`.

        May write into `qkv`, which must be a new tensor and not a view.
        """
        return qkv

    def bias(self, layout: Layout, shape: Shape) -> Tensor | None:
        """What is added to scores by distance: (N, 2R - 1), entry R - 1 + (key - query), R >= `layout.max_seqlen`; kind
        `bias`."""
        return None

    def init_offset_features(self, std: float, generator: torch.Generator) -> None:
        """Initialise learned positions so that `offset_pattern` can distinguish them, at the scale of embeddings of
        standard deviation `std`; does nothing if there is nothing to learn."""

    def offset_pattern(self, offset: int, sharpness: float, shape: Shape) -> OffsetPattern | None:
        """What makes a head of layer `shape.layer` attend to the token `offset` positions away (> 0: to the right).

        `sharpness` is about the score of that token, for inputs (T, E) that are normalised sums of token embeddings and
        positions. None if these positions cannot express it; then the part names `offset_patterns` in `unsupported`.
        """
        return None
