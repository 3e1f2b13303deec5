"""Attention masks: which tokens of its document a token attends to, layer by layer. Never those of other documents."""

from __future__ import annotations

import abc

from encodery.base.parts import Part


class Mask(Part):
    """A kind of attention mask."""

    @abc.abstractmethod
    def window(self, layer: int, depth: int) -> int | None:
        """Half-width w of layer `layer` (from 0): i attends to j if |i - j| <= w. None: to the whole document."""
