"""Multi-vector retrieval (late interaction, ColBERT): one vector per token, compared by MaxSim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encodery.encoders.embeddings import MultiVectorEmbeddings
from encodery.search.filters import Condition
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Hit, Store


class MultiVectorRetriever(ModelRetriever):
    """Finds passages by the vectors of their tokens."""

    mode, from_zero, embeddings = "multi_vector", False, MultiVectorEmbeddings

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_multi_vector(query, limit, conditions, among)
