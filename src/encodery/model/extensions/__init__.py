"""Extensions of a finished encoder: adapters after its sublayers, trained vectors before its tokens (T, width H)."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.sequence_transform import SequenceTransform
from encodery.model.shape import Shape

Sublayer = Literal["attention", "ffn"]


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

    def incompatibility(self, shape: Shape) -> str | None:
        """Why the extension cannot be added to an encoder with a layer of `shape` and its reach; None if it can."""
        return None
