"""Extensions of a finished encoder: adapters after its sublayers, trained vectors before its tokens (T, width H)."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.shape import Layout, Shape

Sublayer = Literal["attention", "ffn"]


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


class SublayerAdapter(nn.Module):
    """Changes the output of a sublayer before it is added to the residual stream. Abstract."""

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """The sublayer's output y (T, H) and its input x (T, H) → (T, H), a new tensor or y itself."""
        return y

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the initial weights, with which nothing changes."""


class IdentityAdapter(SublayerAdapter):
    """Changes nothing: what a sublayer without an adapter has."""


@dataclass(frozen=True)
class ExtensionModules:
    """The modules of an extension: the transform before the blocks, and adapters by (layer, sublayer)."""

    sequence_transform: SequenceTransform | None = None
    sublayer_adapters: Mapping[tuple[int, Sublayer], SublayerAdapter] = field(default_factory=dict)

    def __iter__(self) -> Iterator[SequenceTransform | SublayerAdapter]:
        yield from self.sublayer_adapters.values()
        if self.sequence_transform is not None:
            yield self.sequence_transform


class ModelExtension(Part):
    """Something that is added to a finished encoder and recorded in its settings."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> ExtensionModules:
        """New modules for an encoder of this shape; `init_weights` or a checkpoint fills them."""
