"""Normalisation of hidden states."""

from __future__ import annotations

import abc

from torch import nn

from encodery.base.parts import Part


class Norm(Part):
    """Normalises each row by itself."""

    @abc.abstractmethod
    def build(self, size: int) -> nn.Module:
        """A module (*, size) → (*, size) with its `weight` at one and its `bias`, if any, at zero."""
