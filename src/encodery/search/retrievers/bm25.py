"""BM25: passages that share terms with the query, by the store's own text index. It needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encodery.search.filters import Condition
from encodery.search.retrievers import Retriever
from encodery.search.store import Hit, Store


class BM25Retriever(Retriever):
    """Finds passages by the terms of the query."""

    mode, from_zero = "bm25", True

    def encode_query(self, text: str) -> str:
        return text

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_bm25(query, limit, conditions, among)
