"""Reranking by late interaction (ColBERT): the sum over the query's tokens of the best match in the passage.
arXiv:2004.12832

As in the paper's first setting, it scores the passages that a cheaper search found. Query and passage are encoded
apart, as in `term_weights` and unlike in `cross_encoder`, so a passage is encoded once; yet tokens match by meaning.
The same model in an index (`search index --model`) also retrieves, and needs space for the vectors of all tokens; here
it needs none. Shapes: N texts, n tokens, K dimension of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.encoders import DOCUMENT, QUERY
from encodery.encoders.multi_vector import MultiVectorEncoder
from encodery.model.load import load_model
from encodery.search.rerank import Reranker, Scorer
from encodery.search.rerank._cache import PassageCache


@dataclass(frozen=True, kw_only=True)
class LateInteraction(Reranker):
    """Use it if a cross-encoder is too slow: after the first query most passages are encoded already.

    Args:
        model: the folder of a multi-vector model (recipe colbert).
        cache_size: number of passages whose vectors are kept in memory, the last ones requested; 64 KB each at 128
            tokens and dimension 128.

    Example: `encodery search query index "storm at sea" --rerank runs/colbert`
    """

    model: str
    cache_size: int = 5_000

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("model = '': give the folder of a multi-vector model.")
        if self.cache_size < 1:
            raise SettingsError(f"cache_size = {self.cache_size}: must be at least 1.")

    def open(self) -> Scorer:
        return _Matching(MultiVectorEncoder.from_loaded(load_model(self.model)), self.cache_size)


class _Matching:
    """Scores with the token vectors (n, K) of the passages requested last; texts too long for the model are encoded in
    windows."""

    def __init__(self, encoder: MultiVectorEncoder, cache_size: int) -> None:
        self.encoder, self.passages = encoder, PassageCache(self._vectors, cache_size)

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """Return MaxSim (N,) float64, 0 for a text without tokens."""
        query_vectors = self.encoder.encode([query], truncate="chunk", prompt=QUERY).at(0)
        held = self.passages.of(texts)
        return np.array([_best(query_vectors, held[text]) for text in texts], np.float64)

    def _vectors(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        embeddings = self.encoder.encode(texts, truncate="chunk", prompt=DOCUMENT)
        return {text: embeddings.at(number) for number, text in enumerate(texts)}


def _best(query: np.ndarray, passage: np.ndarray) -> float:
    """MaxSim of the vectors of two texts."""
    return float((query @ passage.T).max(1).sum()) if len(query) and len(passage) else 0.0
