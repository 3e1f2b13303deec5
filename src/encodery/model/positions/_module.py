"""Positions at work in a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.model.head_weights import OffsetPattern
from encodery.model.ops.relative_attention import RelativeTerms
from encodery.model.shape import Layout, Shape


class PositionsModule(nn.Module):
    """The places where positions can enter the model. Abstract; each does nothing unless overridden."""

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

    def relative_terms(self, project: Callable[[Tensor], Tensor], layout: Layout, shape: Shape) -> RelativeTerms | None:
        """Queries and keys of distances, whose products with keys and queries of tokens are added to scores; kind
        `relative`. `project` is the projection of layer `shape.layer`, (P, H) → (P, 3·N·D)."""
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


def check_no_gaps(layout: Layout, name: str) -> None:
    """Raise `SettingsError` if tokens are left out of the sequences, for positions `name` that count distances between
    the tokens of the batch."""
    if layout.has_gaps:
        raise SettingsError(
            f"positions = '{name}': counts distances between neighbouring tokens, so no token of a sequence can be "
            "left out."
        )
