"""Dense retrieval: one vector per text, compared by inner product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from encodery.encoders.embeddings import DenseEmbeddings
from encodery.encoders.postprocessing import PostProcessing
from encodery.search.filters import Condition
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import Hit, Store


class DenseRetriever(ModelRetriever):
    """Finds passages by one vector per text. `postprocess`: the index's steps, applied to the vectors of queries."""

    mode, from_zero, embeddings = "dense", False, DenseEmbeddings

    def encode_query(self, text: str) -> np.ndarray:
        vector: np.ndarray = super().encode_query(text)
        return vector if self.postprocess is None else self.postprocess.apply(vector[None])[0]

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_dense(query, limit, conditions, among)

    def with_postprocess(self, postprocess: PostProcessing | None) -> DenseRetriever:
        return DenseRetriever(self.encoder, postprocess)
