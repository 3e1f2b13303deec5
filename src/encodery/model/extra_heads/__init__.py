"""Extra heads: what a pre-training objective predicts from hidden states besides tokens of the vocabulary."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from encodery.base.parts import Part
from encodery.model.norms import Norm
from encodery.model.shape import Layout, Shape


class ExtraHead(Part):
    """A kind of head that is stored with the model (`model.extra_heads`). Hidden states do not depend on it."""

    @abc.abstractmethod
    def build(self, shape: Shape, norm: Norm) -> ExtraHeadModule:
        """The module; `norm` is the model's kind of norm."""

    @abc.abstractmethod
    def fraction(self, length: float) -> float:
        """The fraction of the tokens that its linear layers read, in sequences of `length` tokens."""


class ExtraHeadModule(nn.Module):
    """Scores of tokens or of sequences. Abstract."""

    @abc.abstractmethod
    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Hidden states (T, H) and where their sequences lie → (T,) one score for each token, or (B, C) C scores for
        each sequence."""
