"""Position information: added to embeddings, a rotation of queries and keys, or a bias or products added to scores."""

from __future__ import annotations

import abc
from typing import Literal

from encodery.base.parts import Part
from encodery.model.cost import Cost
from encodery.model.positions._module import PositionsModule, check_no_gaps
from encodery.model.shape import Shape

__all__ = ["PositionKind", "Positions", "PositionsModule", "check_no_gaps"]

PositionKind = Literal["embeddings", "rotation", "bias", "relative"]
"""Added to the embeddings, a rotation of queries and keys, a number added to scores by distance, or products of queries
and keys with embeddings of distances."""


class Positions(Part):
    """A kind of position information."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> PositionsModule:
        """The module, one for all layers."""

    @property
    @abc.abstractmethod
    def kinds(self) -> frozenset[PositionKind]:
        """Where these positions enter the model; an attention may refuse some kinds."""

    @property
    def has_layer_weights(self) -> bool:
        """Whether the module has weights for each layer of the model, by its number.

        Such a model has no shared layers and no decoder, and the number of its layers stays the same.
        """
        return False

    def cost(self, shape: Shape, length: float) -> Cost:
        """What these positions cost in the attention of a layer, besides what that costs without them, in sequences of
        `length` tokens."""
        return Cost(0.0, 0.0)

    def incompatibility(self, shape: Shape) -> str | None:
        """Why these positions cannot be used in a model of this shape; None if they can.

        The reason completes the sentence "positions = 'rotary': ...".
        """
        return None

    def layer_incompatibility(self, model: Shape, layer: Shape) -> str | None:
        """Why a model of the shape `model` cannot have a layer of the shape `layer`; None if it can."""
        return None
