"""Window mask: every layer sees a band around the token. arXiv:2004.05150

Differs from `document`: cost linear in length. Equals it for documents of at most size + 1 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.model.masks import Mask


@dataclass(frozen=True, kw_only=True)
class WindowMask(Mask):
    """`size` is the half-width: a token sees `size` neighbours on either side."""

    size: int = 64

    def __post_init__(self) -> None:
        if self.size < 0:
            raise SettingsError(f"size = {self.size}: the half-width of a window cannot be negative.")

    def window(self, layer: int, depth: int) -> int | None:
        return self.size
