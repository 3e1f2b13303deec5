"""Learned sparse retrieval (SPLADE): a weight per term of the model's vocabulary, compared by inner product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from encodery.encoders.embeddings import SparseEmbeddings
from encodery.search.filters import Condition
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Hit, SparseVector, Store


class SparseRetriever(ModelRetriever):
    """Finds passages by learned term weights."""

    mode, from_zero, embeddings = "sparse", True, SparseEmbeddings

    def value(self, embedding: Any) -> SparseVector:
        term_ids, weights = embedding
        return SparseVector(term_ids.astype(np.int64), weights.astype(np.float32))

    def similarity(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        return super().similarity(
            [(query.term_ids, query.weights) for query in queries],
            [(passage.term_ids, passage.weights) for passage in passages],
        )

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_sparse(query, limit, conditions, among)
