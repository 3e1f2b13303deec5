"""Changes of which positions the blocks of an encoder work on (T, width H)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from encodery.model.shape import Layout


class SequenceTransform(nn.Module):
    """Changes which positions the blocks work on. Abstract; each method does nothing unless overridden."""

    is_identity: ClassVar[bool] = False

    def transform(self, x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        """Embeddings x (T, H) with their layout → the input of the first block, with its layout."""
        return x, layout

    def before_layer(self, x: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Layout]:
        """The hidden states before layer `layer`, with their layout → that layer's input, with its layout."""
        return x, layout

    def restore(self, x: Tensor, layout: Layout) -> Tensor:
        """The output of a block, with its layout → the hidden states of the real tokens (T, H)."""
        return x

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the initial weights."""


class IdentityTransform(SequenceTransform):
    """Changes nothing: what an encoder without such an extension has."""

    is_identity: ClassVar[bool] = True
