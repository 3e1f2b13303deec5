"""Reranking by term weights: the sum over the query's terms of the passage's weight of each. arXiv:2108.08513 (TILDEv2)

The weights of a passage do not depend on the query, so each passage is encoded once, at query time or beforehand
(`search precompute-terms`, `precomputed_terms.py`). With `query_encoding = "bow"` a query is only tokenised; if all
weights are stored, no model is loaded or run. Unlike `cross_encoder` it encodes each text alone. Any sparse embedding
model can be used; for one that encodes queries (`encoders/sparse.py`) the score is the inner product of the two.
Shapes: N texts, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encodery.base.errors import SettingsError
from encodery.search.precomputed_terms import PrecomputedTerms, TermSource, model_terms_of
from encodery.search.rerank import Reranker, Scorer
from encodery.search.rerank._cache import PassageCache


@dataclass(frozen=True, kw_only=True)
class TermWeights(Reranker):
    """Use it to rerank without running a model at query time.

    Args:
        model: the folder of a sparse embedding model (recipe tilde_v2), or of weights that `search precompute-terms`
            stored.
        cache_size: number of passages that are not stored whose weights are kept in memory, the last ones requested.

    Example: `encodery search query index "storm at sea" --rerank weights`
    """

    model: str
    cache_size: int = 50_000

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError(
                "model = '': give the folder of a sparse embedding model, or of precomputed term weights."
            )
        if self.cache_size < 1:
            raise SettingsError(f"cache_size = {self.cache_size}: must be at least 1.")

    def open(self) -> Scorer:
        folder = Path(self.model)
        if PrecomputedTerms.is_at(folder):
            return _Weighing(PrecomputedTerms.open(folder), self.cache_size)
        return _Weighing(model_terms_of(folder), self.cache_size)


class _Weighing:
    """Scores with the weights of the passages requested so far."""

    def __init__(self, source: TermSource, remembered: int) -> None:
        self.source, self.rows = source, PassageCache(source.passages, remembered)

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """Return (N,) float64. Of the windows of a long text the highest weight of each term counts."""
        words, counts = self.source.query(query)
        rows = self.rows.of(texts)
        return np.array([_product(words, counts, *rows[text]) for text in texts], np.float64)


def _product(words: np.ndarray, counts: np.ndarray, held: np.ndarray, weights: np.ndarray) -> float:
    """Inner product of two sparse vectors with rising term ids."""
    if not len(words) or not len(held):
        return 0.0
    place = np.searchsorted(held, words).clip(max=len(held) - 1)
    return float((counts * weights[place])[held[place] == words].astype(np.float64).sum())
