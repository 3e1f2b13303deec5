"""What is put into a finished encoder beside its parts: adapters behind its layers, trained vectors in front.

Two places, each of which leaves things as they are unless an insert takes it: the front (what the first block gets),
and behind attention and feed-forward of every layer. An insert is written down in the model's settings, so a model
with inserts is an ordinary artifact; one without has no trace of them.
Shapes: T tokens, H width.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Layout, Shape

Sublayer = Literal["attention", "ffn"]


class SequenceTransform(nn.Module):
    """What stands between embeddings and blocks; by default nothing."""

    def transform(self, x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
        """x (T, H) of `layout` → what the first block gets, and how it lies."""
        return x, layout

    def before_layer(self, x: Tensor, layout: Layout, layer: int) -> tuple[Tensor, Layout]:
        """x and how it lies, on its way into layer `layer` → what that layer gets."""
        return x, layout

    def restore(self, x: Tensor, layout: Layout) -> Tensor:
        """What a block gave, and how it lies → the rows of the real tokens (T, H)."""
        return x

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill the weights with what learning starts from."""


class SublayerAdapter(nn.Module):
    """What becomes of a sublayer's output before the residual sum; by default nothing."""

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """y (T, H), which attention or feed-forward made of x (T, H) → (T, H), fresh or y itself."""
        return y

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill the weights so that nothing changes at first."""


@dataclass(frozen=True)
class ExtensionModules:
    """The modules of an insert: its front, and what stands behind (layer, place)."""

    sequence_transform: SequenceTransform | None = None
    sublayer_adapters: Mapping[tuple[int, Sublayer], SublayerAdapter] = field(default_factory=dict)


class ModelExtension(Part):
    """Something added to a finished encoder."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> ExtensionModules:
        """New modules for an encoder of this shape; `start` or a checkpoint fills them."""
