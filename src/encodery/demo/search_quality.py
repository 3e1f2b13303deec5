"""Measure the retrieval quality of the demo's index: BM25, dense and hybrid search on the same queries.

The documentation that the demo gathers comes with queries written by hand and the pages that answer them
(`queries.toml`). For other text the queries are titles of documents, taken from the metadata, each of which should
retrieve its document. Such known-item queries favour BM25 more than the queries of people do.
"""

from __future__ import annotations

import fnmatch
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encodery.corpus.shards import read_documents, shard_paths
from encodery.evaluate.significance import mean_difference
from encodery.metrics import Metric
from encodery.metrics.mrr import MRR
from encodery.metrics.ndcg import NDCG

if TYPE_CHECKING:
    from encodery.search.searcher import Searcher

MODES = ("bm25", "dense", "hybrid")
METRICS: dict[str, Metric] = {"ndcg@10": NDCG(k=10), "mrr@10": MRR(k=10)}
DEPTH = 10
MAX_TITLE_QUESTIONS = 200
MIN_QUESTIONS = 20
QUERIES = Path(__file__).with_name("queries.toml")


@dataclass(frozen=True)
class Question:
    """A query, and the paths of the documents that answer it."""

    text: str
    relevant: tuple[str, ...]


def questions(corpus: Path) -> tuple[str, list[Question]]:
    """Return the origin of the queries, and the queries whose answers are in the corpus."""
    documents = [metadata for metadata in _metadata(corpus) if metadata.get("path")]
    paths = [str(metadata["path"]) for metadata in documents]
    written = []
    for row in tomllib.loads(QUERIES.read_text(encoding="utf-8"))["query"]:
        pattern = re.compile("|".join(map(fnmatch.translate, row["relevant"])))
        answers = tuple(filter(pattern.match, paths))
        if answers:
            written.append(Question(row["text"], answers))
    if len(written) >= MIN_QUESTIONS:
        return "written by hand", written
    titled = [metadata for metadata in documents if metadata.get("title")]
    chosen = random.Random(0).sample(titled, min(MAX_TITLE_QUESTIONS, len(titled)))
    return "titles of documents", [Question(str(m["title"]), (str(m["path"]),)) for m in chosen]


def search_quality(index: Path, corpus: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Search for every query in every mode; return {mode: {metric: mean}}.

    With enough queries the result also contains the difference of hybrid search and BM25 in nDCG@10, with its 95 %
    interval by paired bootstrap. It is empty if there are no queries for the text.
    """
    from encodery.search.searcher import Searcher

    origin, queries = questions(corpus)
    if not queries:
        return {}
    log(f"{len(queries)} questions, {origin}")
    truth = {str(number): dict.fromkeys(question.relevant, 1) for number, question in enumerate(queries)}
    values: dict[str, dict[str, np.ndarray]] = {}
    with Searcher.open(index) as searcher:
        for mode in MODES:
            run = {str(number): _ranking(searcher, question.text, mode) for number, question in enumerate(queries)}
            values[mode] = {name: np.asarray(metric.per_item(truth, run)) for name, metric in METRICS.items()}
    means: dict[str, Any] = {
        mode: {name: float(per_item.mean()) for name, per_item in metrics.items()} for mode, metrics in values.items()
    }
    difference = mean_difference(values["bm25"]["ndcg@10"], values["hybrid"]["ndcg@10"])
    if difference.interval is not None:
        low, high = difference.interval
        means["hybrid minus bm25"] = {"ndcg@10": difference.value, "low": low, "high": high}
    return {"questions": f"{len(queries)}, {origin}", **means}


def _ranking(searcher: Searcher, query: str, mode: str) -> dict[str, float]:
    """Return path -> score of the first ten documents, each ranked by its best passage."""
    answer = searcher.search(query, top_k=DEPTH, mode=mode, per_document=1)
    return {str(hit.metadata.get("path", hit.document)): -float(hit.rank) for hit in answer.hits}


def _metadata(corpus: Path) -> Iterator[dict[str, Any]]:
    for split in ("train", "heldout"):
        yield from (document.metadata for document in read_documents(shard_paths(corpus, split)))
