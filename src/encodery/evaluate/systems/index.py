"""An index of `encodery search` in any mode, with or without a reranker, for retrieval.

The index must contain the documents of the suite, by id. A document is ranked by its best passage. Shapes: N texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from encodery.base.errors import InputError
from encodery.base.settings import check_at_least, check_interval
from encodery.evaluate.systems import OpenSystem, Role, Run, System, UnsupportedEvaluation, Vectors
from encodery.search.reranking import reranker_of
from encodery.search.searcher import RERANK_TOP_K, Reranking, Searcher
from encodery.search.tune_rerank import rerank_weight_of


@dataclass(frozen=True, kw_only=True)
class IndexSystem(System):
    """An index, searched as by `encodery search query`.

    Attributes:
        mode, fusion: as for `encodery search query`.
        weight: the weight of all models against BM25 (weight=0.4), or of each retriever (weight.bm25=0.5).
        rerank: a model that reranks the first `rerank_top_k` passages, or empty.
        rerank_weight: the weight of the reranker; None for the value of `encodery search tune-rerank`.
        model: the encoder, if it is no longer at its path.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {"embeddings", "counters", "a_text_is_most_similar_to_itself"}  # It ranks documents instead.
    )

    path: str
    name: str = ""
    mode: str = ""
    weight: float | dict[str, float] | None = None
    fusion: str = "scores"
    rerank: str = ""
    rerank_top_k: int = RERANK_TOP_K
    rerank_weight: float | None = None
    model: str = ""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "rerank_top_k")
        check_interval(self, "0 <= x <= 1", "rerank_weight")

    @property
    def label(self) -> str:
        parts = (Path(self.path).name, self.mode, "reranked" if self.rerank else "")
        return self.name or " ".join(part for part in parts if part)

    def open(self) -> OpenSystem:
        return _Opened(self)


class _Opened(OpenSystem):
    symmetric = False

    def __init__(self, settings: IndexSystem) -> None:
        super().__init__(settings.label)
        self._settings = settings
        self._searcher = Searcher.open(settings.path, model=settings.model or None)
        self._reranking: Reranking | None = None
        if settings.rerank:
            stored = rerank_weight_of(self._searcher.index.path, settings.rerank)
            weight = stored if settings.rerank_weight is None else settings.rerank_weight
            scorer = reranker_of(settings.rerank).open()
            self._reranking = Reranking(scorer, settings.rerank_top_k, weight)

    def rank(self, queries: Mapping[str, str], documents: Mapping[str, str], depth: int) -> Run:
        """Return the documents of the index; reranked ones come before the others."""
        run: Run = {}
        with self.counters.clock():
            for key, query in queries.items():
                run[key] = self._ranked(query, depth)
        unknown = {document for scores in run.values() for document in scores} - set(documents)
        if unknown:
            raise InputError(
                f"{self._settings.path}: contains documents that the suite does not have, such as '{min(unknown)}'. "
                "Index the corpus.jsonl of the suite."
            )
        self.counters.add(len(queries), None, 0, 0)
        return run

    def _ranked(self, query: str, depth: int) -> dict[str, float]:
        settings = self._settings

        def search(reranked: bool) -> list[str]:
            answer = self._searcher.search(
                query,
                settings.rerank_top_k if reranked else depth,
                settings.mode or None,
                per_document=1,
                weight=settings.weight,
                fusion=settings.fusion,
                reranking=self._reranking if reranked else None,
            )
            return [hit.document for hit in answer.hits]

        order = dict.fromkeys((*(search(True) if self._reranking is not None else ()), *search(False)))
        return {document: 1 / rank for rank, document in enumerate(order, 1)} if order else {}

    def close(self) -> None:
        self._searcher.close()

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        raise UnsupportedEvaluation(f"{self.name}: retrieves documents for queries and returns no vectors.")
