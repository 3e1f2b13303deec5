"""Normalisation of hidden states, separately for each token."""

from __future__ import annotations

import abc

from torch import nn

from encodery.base.parts import Part


class Norm(Part):
    """A kind of normalisation."""

    @abc.abstractmethod
    def build(self, size: int) -> nn.Module:
        """A module (*, size) → (*, size) with its `weight` at one and its `bias`, if any, at zero."""
