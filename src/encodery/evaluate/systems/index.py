"""An index of `encodery search`, asked as its users ask it: by words, by vectors, by both, with or without a reranker.

Its documents are those it was built of; they must be the suite's, by id. Only retrieval can be measured so. A document
is found by the best of its passages. Shapes: N texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from encodery.base.errors import InputError, SettingsError
from encodery.evaluate.systems import OpenSystem, Role, Run, System, UnsupportedEvaluation, Vectors
from encodery.search.reranking import reranker_of
from encodery.search.searcher import RERANK_TOP_K, Reranking, Searcher
from encodery.search.tune_rerank import rerank_weight_of


@dataclass(frozen=True, kw_only=True)
class IndexSystem(System):
    """`path`: the index. `mode`, `weight`, `fusion` and `reranked` as for `encodery search query`: the share of all
    models beside words (weight=0.4), or of each side (weight.bm25=0.5, weight.dense=0.5); `rerank`: a cross-encoder,
    token vectors or term weights that order the first `reranked` passages anew, "" for none, with a share of
    `rerank_weight` in that order (not given: as `search trust` found it); `model`: the encoder,
    where it is not where it was."""

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
        if self.rerank_top_k < 1:
            raise SettingsError(f"reranked = {self.rerank_top_k}: must be positive.")
        if self.rerank_weight is not None and not 0 <= self.rerank_weight <= 1:
            raise SettingsError(f"rerank_weight = {self.rerank_weight}: must lie in 0 … 1.")

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
        """The index's own documents for queries; the reranked ones stand before those it did not read."""
        found: Run = {}
        with self.counters.clock():
            for key, query in queries.items():
                found[key] = self._ranked(query, depth)
        strange = {document for scores in found.values() for document in scores} - set(documents)
        if strange:
            raise InputError(
                f"{self._settings.path}: finds documents that the suite does not have, such as '{min(strange)}'. "
                "Index the suite's own corpus.jsonl."
            )
        self.counters.add(len(queries), None, 0, 0)
        return found

    def _ranked(self, query: str, depth: int) -> dict[str, float]:
        settings = self._settings

        def ask(reranked: bool) -> list[str]:
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

        order = dict.fromkeys((*(ask(True) if self._reranking is not None else ()), *ask(False)))
        return {document: 1 / rank for rank, document in enumerate(order, 1)} if order else {}

    def close(self) -> None:
        self._searcher.close()

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        raise UnsupportedEvaluation(f"{self.name}: finds documents for queries; it gives no vectors.")
