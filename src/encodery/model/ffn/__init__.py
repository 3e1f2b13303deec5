"""The feed-forward layer of a block."""

from __future__ import annotations

import abc

from torch import nn

from encodery.base.parts import Part
from encodery.model.shape import Shape


class FFN(Part):
    """What happens to each token by itself."""

    @abc.abstractmethod
    def build(self, shape: Shape) -> nn.Module:
        """A module (T, H) → (T, H) with linear layers `up` and `down`; its output is a fresh tensor."""
