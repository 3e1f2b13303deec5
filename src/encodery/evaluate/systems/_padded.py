"""Counts real and padded tokens, and tokens cut off, of a peer that pads. Shapes: B sequences, L longest of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COUNTED_AT_ONCE = 1024


class PaddingCounter:
    """Real and computed tokens of the batches seen, from their attention masks (B, L)."""

    def __init__(self) -> None:
        self.real = 0
        self.computed = 0

    def add_batch(self, mask: Any) -> None:
        """One batch that is computed."""
        self.real += int(mask.sum())
        self.computed += int(mask.numel())

    def reset(self) -> tuple[int, int]:
        """(real, padding) tokens since the last call."""
        found = self.real, self.computed - self.real
        self.real = self.computed = 0
        return found


def count_untruncated(tokenizer: Any, texts: Sequence[str]) -> int:
    """Tokens of all texts with their special ones, were none cut off: a pass of its own, which no clock sees."""
    total = 0
    for start in range(0, len(texts), COUNTED_AT_ONCE):
        some = list(texts[start : start + COUNTED_AT_ONCE])
        rows = tokenizer(some, truncation=False, padding=False, verbose=False)["input_ids"]
        total += sum(map(len, rows))
    return total
