"""Language-model heads: hidden states to scores over the vocabulary."""

from __future__ import annotations

import abc
from typing import Protocol

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.norms import Norm
from encodery.model.shape import Shape


class HasTokenEmbeddings(Protocol):
    """What a tied decoder needs of an encoder."""

    @property
    def token_embeddings(self) -> Tensor:
        """The token embeddings (V, E)."""


class LMHead(Part):
    """A kind of language-model head, which works on each position separately."""

    @abc.abstractmethod
    def build(self, shape: Shape, norm: Norm) -> LMHeadModule:
        """The module; `norm` is the model's kind of norm."""


class LMHeadModule(nn.Module):
    """Scores over the vocabulary. A loss can use `features` and `decoder` without computing all logits. Abstract."""

    @abc.abstractmethod
    def features(self, hidden: Tensor) -> Tensor:
        """Hidden states of selected positions (M, H) → (M, E)."""

    @abc.abstractmethod
    def decoder(self, encoder: HasTokenEmbeddings) -> tuple[Tensor, Tensor | None]:
        """The weight (V, E), which is the encoder's own if tied, and the bias (V,) or None."""

    def init_identity(self) -> None:
        """Initialise in place so that `features` returns about its input; does nothing if the head cannot."""

    def forward(self, hidden: Tensor, encoder: HasTokenEmbeddings) -> Tensor:
        """Hidden states (M, H) → logits (M, V)."""
        weight, bias = self.decoder(encoder)
        return nn.functional.linear(self.features(hidden), weight, bias)
