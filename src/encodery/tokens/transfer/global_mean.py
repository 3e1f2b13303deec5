"""A new piece begins as the mean of all: nothing is said of it. The plainest start, to measure others against.

Shapes: V pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer


@dataclass(frozen=True, kw_only=True)
class GlobalMean(Transfer):
    """Has no settings."""

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        return {}
