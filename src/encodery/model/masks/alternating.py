"""Alternating mask: one global layer, then local ones, over and over. arXiv:2412.13663

Differs from `window`: layers 0, every, 2·every … see the whole document. Equals `document` for every = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.model.masks import Mask


@dataclass(frozen=True, kw_only=True)
class AlternatingMask(Mask):
    """`size` is the half-width of local layers; layer i is global where (i - first) is a multiple of `every`."""

    size: int = 64
    every: int = 3
    first: int = 0

    def __post_init__(self) -> None:
        if self.size < 0 or self.every < 1:
            raise SettingsError(f"size = {self.size}, every = {self.every}: need size >= 0 and every >= 1.")

    def window(self, layer: int, depth: int) -> int | None:
        return None if (layer - self.first) % self.every == 0 else self.size
