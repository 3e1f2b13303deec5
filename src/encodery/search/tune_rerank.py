"""How much of the last word a reranker deserves in an index: measured on the index's own passages, without labels.

As in `calibrate.py`, sentences taken out of passages ask for them: the passages of a sample, those asked for without
their sentence, are put into a small index made as this one, which finds the first passages; the reranker reads them,
and the share with which the two together put the passage asked for highest is sought on resamples of the queries. The
mean of what they find is noted in the index, by the reranker's folder. Not halved: a reranker is no kin of the queries,
and what is found is near the best share on judged questions, or below it (bench/LOG.md, Retrieval).
Shapes: Q queries, W shares.
"""

from __future__ import annotations

import copy
import hashlib
import heapq
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.artifact import Artifact, atomic_write
from encodery.base.errors import ArtifactError, EmptyInput
from encodery.search.build import fields_of
from encodery.search.calibrate import MIN_QUERIES, WEIGHTS, mean_best_weight, reciprocal_ranks, sentence_queries
from encodery.search.fuse import min_max_scaled
from encodery.search.rerank import Scorer
from encodery.search.sample import PASSAGES
from encodery.search.searcher import RERANK_TOP_K, RERANK_WEIGHT, Searcher
from encodery.search.store import Point
from encodery.search.writer import encode_points, postprocess_points

QUERIES = 200
RERANK_WEIGHTS = "rerankers.json"


@dataclass(frozen=True)
class RerankWeight:
    """`share` of the reranker in the last word; `curve`: share -> mean reciprocal rank on `queries` queries."""

    weight: float
    queries: int
    curve: dict[str, float]


def tune_rerank(
    searcher: Searcher, scorer: Scorer, max_queries: int = QUERIES, progress: Callable[[int, int], None] | None = None
) -> RerankWeight:
    """The share that `most` queries or fewer speak for, as hybrid search finds the passages, or the index's only way.

    `progress` is called with the queries done and their number. Raises `EmptyInput` for an index that gives fewer than
    thirty.
    """
    sample = heapq.nsmallest(PASSAGES, (point for some in searcher.store.scan() for point in some), key=_drawn)
    asked = dict(list(sentence_queries(sample).items())[:max_queries])
    if len(asked) < MIN_QUERIES:
        raise EmptyInput(
            f"{searcher.path}: gives {len(asked)} sentences to ask by, {MIN_QUERIES} are needed. Give the reranker's share."
        )
    texts = [asked[place][1] if place in asked else point.text for place, point in enumerate(sample)]
    points = encode_points(
        [Point("", place, text, None) for place, text in enumerate(texts)], searcher.retrievers, Counter()
    )
    points = postprocess_points(points, searcher.postprocess)
    ranks = []
    with tempfile.TemporaryDirectory() as folder:
        fields = fields_of(searcher.models, searcher.postprocess, searcher.settings.vectors)
        with searcher.settings.engine.scratch_engine().create(Path(folder) / "sample", fields) as store:
            store.upsert(points)
            store.compact()
            aside = copy.copy(searcher)
            aside.store = store
            for done, (place, (query, _)) in enumerate(asked.items(), 1):
                first = aside.first_passages(query, RERANK_TOP_K)
                again = scorer.score(query, [point.text for point, _ in first])
                names = [str(point.number) for point, _ in first]
                sides = [
                    min_max_scaled(dict(zip(names, map(float, scores), strict=True)), False)
                    for scores in ([score for _, score in first], again)
                ]
                ranks.append(reciprocal_ranks(sides[0], sides[1], str(place)))
                if progress is not None:
                    progress(done, len(asked))
    found = np.array(ranks)
    curve = {str(share): round(float(mean), 4) for share, mean in zip(WEIGHTS, found.mean(axis=0), strict=True)}
    return RerankWeight(round(mean_best_weight(found), 2), len(asked), curve)


def save_rerank_weight(index: Path, reranker: str | Path, rerank_weight: RerankWeight) -> None:
    """Write down what was found for the reranker in this folder; what was known of others stays."""
    held = _read(index) | {
        str(Path(reranker).resolve()): {**asdict(rerank_weight), "fingerprint": _fingerprint(reranker)}
    }
    atomic_write(index / RERANK_WEIGHTS, json.dumps(held, indent=1))


def rerank_weight_of(index: Path, reranker: str | Path) -> float:
    """The share noted for the reranker in this folder, as it is now; half where there is none."""
    held = _read(index).get(str(Path(reranker).resolve()))
    if held is None or held.get("fingerprint") != _fingerprint(reranker):
        return RERANK_WEIGHT
    share: float = held["weight"]
    return share


def _read(index: Path) -> dict[str, dict[str, Any]]:
    file = index / RERANK_WEIGHTS
    try:
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {where: {**held, "weight": float(held["weight"])} for where, held in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{file}: damaged: {error}") from error


def _fingerprint(reranker: str | Path) -> str:
    """Of our own models; of a stock folder only its place is known."""
    held = Artifact.find_all(reranker)
    return held[-1].manifest.fingerprint if held else ""


def _drawn(point: Point) -> bytes:
    return hashlib.blake2b(point.id.encode(), digest_size=8).digest()
