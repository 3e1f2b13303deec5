"""Count real and padded tokens, and truncated tokens, of a library that pads. Shapes: B sequences of length L."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BATCH_TEXTS = 1024


class PaddingCounter:
    """Count real and computed tokens of batches, from their attention masks (B, L)."""

    def __init__(self) -> None:
        self.real = 0
        self.computed = 0

    def add_batch(self, mask: Any) -> None:
        """Count a batch."""
        self.real += int(mask.sum())
        self.computed += int(mask.numel())

    def reset(self) -> tuple[int, int]:
        """Return (real, padding) tokens since the last call."""
        counts = self.real, self.computed - self.real
        self.real = self.computed = 0
        return counts


def count_untruncated(tokenizer: Any, texts: Sequence[str]) -> int:
    """Return the tokens of all texts without truncation, with special tokens. Not part of the measured time."""
    total = 0
    for start in range(0, len(texts), BATCH_TEXTS):
        batch = list(texts[start : start + BATCH_TEXTS])
        rows = tokenizer(batch, truncation=False, padding=False, verbose=False)["input_ids"]
        total += sum(map(len, rows))
    return total
