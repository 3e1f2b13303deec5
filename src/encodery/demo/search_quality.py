"""How well the demo's index answers questions: by words, by vectors and by both, on the same questions.

The demo's own documentation comes with questions written by hand and the pages that answer them (`queries.toml`). For
any other text the questions are made from it: the title of a document, asked to find that document among all, the
title being taken as it stands in the metadata; such known-item questions are kinder to words than people's are.
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
    """A query and the paths of the documents that answer it."""

    text: str
    relevant: tuple[str, ...]


def questions(corpus: Path) -> tuple[str, list[Question]]:
    """How the questions were made, and those whose answers are in the corpus."""
    held = [metadata for metadata in _metadata(corpus) if metadata.get("path")]
    paths = [str(metadata["path"]) for metadata in held]
    asked = []
    for row in tomllib.loads(QUERIES.read_text(encoding="utf-8"))["query"]:
        wanted = re.compile("|".join(map(fnmatch.translate, row["relevant"])))
        answers = tuple(filter(wanted.match, paths))
        if answers:
            asked.append(Question(row["text"], answers))
    if len(asked) >= MIN_QUESTIONS:
        return "written by hand", asked
    titled = [metadata for metadata in held if metadata.get("title")]
    chosen = random.Random(0).sample(titled, min(MAX_TITLE_QUESTIONS, len(titled)))
    return "titles of documents", [Question(str(m["title"]), (str(m["path"]),)) for m in chosen]


def search_quality(index: Path, corpus: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Every question asked in every mode: {mode: {figure: mean}}, and the difference of hybrid and BM25 in nDCG@10 with
    its 95 % interval from paired bootstrap, where there are enough questions. Empty where the text gives none."""
    from encodery.search.searcher import Searcher

    made, asked = questions(corpus)
    if not asked:
        return {}
    log(f"{len(asked)} questions, {made}")
    truth = {str(number): dict.fromkeys(question.relevant, 1) for number, question in enumerate(asked)}
    each: dict[str, dict[str, np.ndarray]] = {}
    with Searcher(index) as searcher:
        for mode in MODES:
            run = {str(number): _ranking(searcher, question.text, mode) for number, question in enumerate(asked)}
            each[mode] = {name: np.asarray(metric.per_item(truth, run)) for name, metric in METRICS.items()}
    found: dict[str, Any] = {
        mode: {name: float(values.mean()) for name, values in by.items()} for mode, by in each.items()
    }
    apart = mean_difference(each["bm25"]["ndcg@10"], each["hybrid"]["ndcg@10"])
    if apart.interval is not None:
        low, high = apart.interval
        found["hybrid minus bm25"] = {"ndcg@10": apart.value, "low": low, "high": high}
    return {"questions": f"{len(asked)}, {made}", **found}


def _ranking(searcher: Searcher, query: str, mode: str) -> dict[str, float]:
    """Path -> score of the first ten documents, each by its best passage."""
    answer = searcher.search(query, top=DEPTH, mode=mode, per_document=1)
    return {str(hit.metadata.get("path", hit.document)): -float(hit.rank) for hit in answer.hits}


def _metadata(corpus: Path) -> Iterator[dict[str, Any]]:
    for split in ("train", "heldout"):
        yield from (document.metadata for document in read_documents(shard_paths(corpus, split)))
