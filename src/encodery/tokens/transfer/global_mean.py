"""A new piece is initialised as the mean of all embeddings: the baseline for other transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer


@dataclass(frozen=True, kw_only=True)
class GlobalMean(Transfer):
    """Use it as a baseline. It has no settings.

    transfer.is=global_mean
    """

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        return {}
