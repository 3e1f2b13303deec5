"""Document mask: every token sees its whole document, in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from encodery.model.masks import Mask


@dataclass(frozen=True, kw_only=True)
class DocumentMask(Mask):
    """No settings."""

    def window(self, layer: int, depth: int) -> int | None:
        return None
