"""Retrieval on a folder in the layout of BEIR, by exact search over all embeddings or by the search of the system.

Metrics are those of trec_eval. arXiv:2104.08663 Shapes: Q queries, D documents, K dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from encodery.base.errors import EmptyInput, InputError, SettingsError, nearest
from encodery.base.settings import check_at_least
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.suites import Suite
from encodery.evaluate.systems import OpenSystem, Run, Vectors
from encodery.evaluate.unit_length import unit_length
from encodery.metrics import Metric
from encodery.metrics.map import MAP
from encodery.metrics.mrr import MRR
from encodery.metrics.ndcg import NDCG
from encodery.metrics.recall import Recall
from encodery.rows import beir

MAX_SCORES = 1 << 24


@dataclass(frozen=True, eq=False)
class JudgedQueries:
    """Documents and queries by id, and the judgements (query -> document -> grade).

    Queries without a relevant document are left out. `missing` is the number of relevant documents that are not in the
    corpus; they count as not retrieved for every system.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    grades: beir.Qrels
    missing: int

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, kw_only=True)
class RetrievalSuite(Suite):
    """Use it to compare retrieval by embeddings, BM25 or an index.

    Attributes:
        k: the ranks that nDCG and MRR consider.
        depth: the number of documents retrieved per query, which recall and MAP consider.
        similarity: the inner product of embeddings at unit length ("cosine"), or as they are ("dot").
        max_queries: the maximum number of queries; the first ones are used.
        runs: a folder to which a TREC run file of each system is written.
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
        check_at_least(self, 1, "max_queries")

    @property
    def main_metric(self) -> str:
        return f"ndcg@{self.k}"

    def read(self, data: Path) -> JudgedQueries:
        dataset = beir.read_beir(data, missing="keep")
        if self.split not in dataset.qrels:
            known = ", ".join(dataset.qrels)
            hint = nearest(self.split, dataset.qrels)
            raise InputError(f"{data}: has no judgements for '{self.split}'.{hint} Splits: {known}.")
        judged = dataset.qrels[self.split]
        kept = [query for query in dataset.queries if max(judged.get(query, {}).values(), default=0) > 0][
            : self.max_queries
        ]
        if not kept:
            raise EmptyInput(f"{data}: no query of '{self.split}' has a relevant document.")
        missing = sum(query in kept for query, _ in dataset.missing_documents(self.split))
        return JudgedQueries(
            dataset.documents,
            {query: dataset.queries[query] for query in kept},
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
        values: dict[str, MetricValue] = {}
        for name, metric in metrics.items():
            per_query = metric.per_item(items.grades, run)
            assert per_query is not None
            values[name] = MetricValue.mean(per_query)
        if items.missing:
            values["relevant, not in the corpus"] = MetricValue(items.missing)
        return values

    def ranked(self, items: JudgedQueries, system: OpenSystem) -> Run:
        """Return query -> document -> score of the first `depth` documents."""
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
    """Return the best documents (D, K) of each query (Q, K), in blocks of queries.

    Sparse documents without a term of the query are not returned.
    """
    dense = isinstance(documents, np.ndarray)
    size = max(1, MAX_SCORES // len(document_ids))
    transposed = documents.T if dense else documents.T.tocsr()
    run: Run = {}
    for start in range(0, len(query_ids), size):
        scores = queries[start : start + size] @ transposed
        for query, row in zip(query_ids[start : start + size], scores if dense else scores.toarray(), strict=True):
            best = np.argpartition(-row, depth - 1)[:depth] if depth < len(row) else np.arange(len(row))
            run[query] = {document_ids[n]: float(row[n]) for n in best if dense or row[n] != 0}
    return run


def _file_name(system: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in system)
