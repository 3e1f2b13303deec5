"""Who may see whom inside a document, layer by layer. No part lets one document see another."""

from __future__ import annotations

import abc

from encodery.base.parts import Part


class Mask(Part):
    """The reach of attention."""

    @abc.abstractmethod
    def window(self, layer: int, depth: int) -> int | None:
        """Half-width w of layer `layer` (from 0): i sees j where |i - j| <= w. None: the whole document."""
