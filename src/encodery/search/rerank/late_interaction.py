"""Reranking by a vector for each token: Σ over the query's tokens of the best match in the passage. arXiv:2004.12832

ColBERT, as its paper first asks it: over the passages that something cheaper found. Query and passage are read apart,
as in `term_weights` and unlike `cross_encoder`, so a passage is encoded once; yet words meet by meaning. The same model
in an index (`search index --model`) finds passages by itself and needs room for every token's vector; here it needs
none.
Shapes: N texts, n tokens, K width of a vector.
"""

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
    """`model`: the folder of a model of token vectors (recipe colbert). `remembered`: passages whose vectors are kept
    in memory, the last ones asked for; 64 KB each at 128 tokens of width 128."""

    model: str
    cache_size: int = 5_000

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("model = '': is the folder of a model of token vectors.")
        if self.cache_size < 1:
            raise SettingsError(f"cache_size = {self.cache_size}: must be at least 1.")

    def open(self) -> Scorer:
        return _Matching(MultiVectorEncoder.from_loaded(load_model(self.model)), self.cache_size)


class _Matching:
    """Scores, with the vectors (n, K) of the passages seen last; texts too long for the model are read in windows."""

    def __init__(self, encoder: MultiVectorEncoder, remembered: int) -> None:
        self.encoder, self.passages = encoder, PassageCache(self._vectors, remembered)

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """(N,) float64: MaxSim, 0 for a text without tokens."""
        asked = self.encoder.encode([query], truncate="chunk", prompt=QUERY).at(0)
        held = self.passages.of(texts)
        return np.array([_best(asked, held[text]) for text in texts], np.float64)

    def _vectors(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        found = self.encoder.encode(texts, truncate="chunk", prompt=DOCUMENT)
        return {text: found.at(number) for number, text in enumerate(texts)}


def _best(query: np.ndarray, passage: np.ndarray) -> float:
    """MaxSim of the vectors of two texts."""
    return float((query @ passage.T).max(1).sum()) if len(query) and len(passage) else 0.0
