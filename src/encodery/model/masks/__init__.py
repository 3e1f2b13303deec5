"""Attention masks: which tokens of its document a token attends to, layer by layer. Never those of other documents."""

from __future__ import annotations

import abc

from encodery.base.parts import Part
from encodery.model.reach import Reach


class Mask(Part):
    """A kind of attention mask."""

    @abc.abstractmethod
    def reach(self, layer: int, depth: int) -> Reach:
        """Which tokens of its document a token attends to in layer `layer` of `depth`, counted from 0."""
