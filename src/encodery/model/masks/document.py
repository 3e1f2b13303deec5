"""Document mask: every token attends to its whole document, in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.model.masks import Mask
from encodery.model.reach import Reach


@dataclass(frozen=True, kw_only=True)
class DocumentMask(Mask):
    """Use it for documents of up to about 512 tokens. Has no settings.

    [model]
    mask = "document"
    """

    def reach(self, layer: int, depth: int) -> Reach:
        return Reach()
