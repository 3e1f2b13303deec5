"""What turns hidden states into predictions."""

from __future__ import annotations

import abc
from typing import Protocol

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.norms import Norm
from encodery.model.shape import Shape


class HasTokenEmbeddings(Protocol):
    """An encoder, as far as a tied decoder cares."""

    @property
    def token_embeddings(self) -> Tensor:
        """The word table (V, E)."""


class LMHead(Part):
    """A head over single rows of hidden states."""

    @abc.abstractmethod
    def build(self, shape: Shape, norm: Norm) -> LMHeadModule:
        """The module; `norm` is the model's."""


class LMHeadModule(nn.Module):
    """Scores over the vocabulary for chosen rows; a loss may take `features` and `decoder` and never see logits."""

    @abc.abstractmethod
    def features(self, hidden: Tensor) -> Tensor:
        """Hidden states of chosen rows (M, H) → (M, E)."""

    @abc.abstractmethod
    def decoder(self, encoder: HasTokenEmbeddings) -> tuple[Tensor, Tensor | None]:
        """The weight (V, E), the encoder's own where tied, and the bias (V,) or None."""

    def init_identity(self) -> None:
        """Begin so that features are rows put straight through, in place; nothing where the head cannot."""

    def forward(self, hidden: Tensor, encoder: HasTokenEmbeddings) -> Tensor:
        """Hidden states (M, H) → logits (M, V)."""
        weight, bias = self.decoder(encoder)
        return nn.functional.linear(self.features(hidden), weight, bias)
