"""Retrieval: documents found for queries, on a folder in BEIR's layout, by exact search over all vectors or by the
system's own.

Figures as trec_eval defines them. arXiv:2104.08663 Shapes: Q queries, D documents, K width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from encodery.base.errors import EmptyInput, InputError, SettingsError, nearest
from encodery.evaluate.suites import MetricValue, Suite
from encodery.evaluate.systems import OpenSystem, Run, Vectors, unit_length
from encodery.metrics import Metric
from encodery.metrics.map import MAP
from encodery.metrics.mrr import MRR
from encodery.metrics.ndcg import NDCG
from encodery.metrics.recall import Recall
from encodery.rows import beir

SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class JudgedQueries:
    """`documents` and `queries` by id, of the queries that have a relevant document; `grades`: query -> document ->
    grade. `missing`: relevant documents that the corpus lacks, which no system can find and for which all pay alike."""

    documents: dict[str, str]
    queries: dict[str, str]
    grades: beir.Qrels
    missing: int

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, kw_only=True)
class RetrievalSuite(Suite):
    """`k`: ranks that nDCG and MRR look at; `depth`: documents found for each query, which recall and MAP look at.

    `similarity`: inner product of vectors at unit length, or as they are. `most`: queries at most, the first ones.
    `runs`: a folder that gets a TREC run file of each system.
    """

    split: str = "test"
    k: int = 10
    depth: int = 100
    similarity: Literal["cosine", "dot"] = "cosine"
    max_queries: int | None = None
    runs: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.depth:
            raise SettingsError(f"k = {self.k}, depth = {self.depth}: 1 <= k <= depth is needed.")
        if self.max_queries is not None and self.max_queries < 1:
            raise SettingsError(f"most = {self.max_queries}: must be at least 1.")

    @property
    def main_metric(self) -> str:
        return f"ndcg@{self.k}"

    def read(self, data: Path) -> JudgedQueries:
        found = beir.read_beir(data, missing="keep")
        if self.split not in found.qrels:
            known = ", ".join(found.qrels)
            hint = nearest(self.split, found.qrels)
            raise InputError(f"{data}: has no judgements '{self.split}'.{hint} It has {known}.")
        judged = found.qrels[self.split]
        kept = [query for query in found.queries if max(judged.get(query, {}).values(), default=0) > 0][
            : self.max_queries
        ]
        if not kept:
            raise EmptyInput(f"{data}: no query of '{self.split}' has a relevant document.")
        missing = sum(query in kept for query, _ in found.missing_documents(self.split))
        return JudgedQueries(
            found.documents,
            {query: found.queries[query] for query in kept},
            {query: judged[query] for query in kept},
            missing,
        )

    def measure(self, items: JudgedQueries, system: OpenSystem) -> dict[str, MetricValue]:
        run = self.ranked(items, system)
        if self.runs:
            Path(self.runs).mkdir(parents=True, exist_ok=True)
            beir.write_run(Path(self.runs) / f"{_file_name(system.name)}.run", run, system.name)
        metrics: dict[str, Metric] = {
            self.main_metric: NDCG(k=self.k),
            f"mrr@{self.k}": MRR(k=self.k),
            f"recall@{self.depth}": Recall(k=self.depth),
            f"map@{self.depth}": MAP(k=self.depth),
        }
        found: dict[str, MetricValue] = {}
        for name, metric in metrics.items():
            each = metric.per_item(items.grades, run)
            assert each is not None
            found[name] = MetricValue.mean(each)
        if items.missing:
            found["relevant, not in the corpus"] = MetricValue(items.missing)
        return found

    def ranked(self, items: JudgedQueries, system: OpenSystem) -> Run:
        """Query -> document -> score of the first `depth` documents."""
        own = system.rank(items.queries, items.documents, self.depth)
        if own is not None:
            return own
        texts = list(items.documents.values())
        system.fit(texts)
        documents = system.encode(texts, "document")
        queries = system.encode(list(items.queries.values()), "query")
        if self.similarity == "cosine" and system.symmetric:
            documents, queries = unit_length(documents), unit_length(queries)
        return _nearest(queries, documents, list(items.queries), list(items.documents), self.depth)


def _nearest(queries: Vectors, documents: Vectors, query_ids: list[str], document_ids: list[str], depth: int) -> Run:
    """The best documents of each query (Q, K) against all (D, K), some queries at a time; of sparse vectors only those
    that share an entry with the query."""
    dense = isinstance(documents, np.ndarray)
    some = max(1, SCORES_AT_ONCE // len(document_ids))
    across = documents.T if dense else documents.T.tocsr()
    found: Run = {}
    for start in range(0, len(query_ids), some):
        scores = queries[start : start + some] @ across
        for query, row in zip(query_ids[start : start + some], scores if dense else scores.toarray(), strict=True):
            best = np.argpartition(-row, depth - 1)[:depth] if depth < len(row) else np.arange(len(row))
            found[query] = {document_ids[n]: float(row[n]) for n in best if dense or row[n] != 0}
    return found


def _file_name(system: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in system)
