"""Wrong answers for training data: mined with a model, and how many of them are likely right after all.

Shapes: E examples, Q queries, P passages, K width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.embed.negatives import Judge, MinedNegatives, NegativeMiner, NegativePool, TextSearch
from encodery.encoders.dense import DenseEncoder

MIN_QUERIES = 20  # Queries below which a rate says nothing.


def build_pool(
    anchors: Sequence[str],
    partners: Sequence[str],
    embedder: DenseEncoder | None = None,
    prompts: tuple[str | None, str | None] = (None, None),
    judge: Judge | None = None,
    search: TextSearch | None = None,
    truncate: str = "right",
) -> tuple[NegativePool, np.ndarray]:
    """The distinct anchors against the distinct partners of E examples, and the query (E,) of each example.

    `embedder` gives the vectors, with the prompts of queries and of passages; texts too long for it are cut, or read as
    `truncate` says.
    """
    queries, passages = list(dict.fromkeys(anchors)), list(dict.fromkeys(partners))
    places = {text: number for number, text in enumerate(queries)}
    numbers = {text: number for number, text in enumerate(passages)}
    right: list[set[int]] = [set() for _ in queries]
    for anchor, partner in zip(anchors, partners, strict=True):
        right[places[anchor]].add(numbers[partner])
        if anchor in numbers:
            right[places[anchor]].add(numbers[anchor])
    vectors = None
    if embedder is not None:
        found = (
            embedder.encode(texts, truncate=truncate, prompt=prompt).vectors
            for texts, prompt in zip((queries, passages), prompts, strict=True)
        )
        one, other = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in found)
        vectors = one, other
    hay = NegativePool(queries, passages, [np.array(sorted(some), np.int64) for some in right], vectors, judge, search)
    return hay, np.array([places[anchor] for anchor in anchors], np.int64)


def mine_negatives(miner: NegativeMiner, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
    """The miner's answers. Raises `SettingsError` naming what the haystack lacks."""
    for needed in miner.requires:
        if getattr(pool, needed) is None:
            how = (
                " A cross-encoder judges in `encodery embed mine-negatives --judge`, whose file is trained on."
                if needed == "judge"
                else ""
            )
            raise SettingsError(f"mine = '{name_of(miner)}': needs {needed}, which is not given here.{how}")
    return miner.mine(pool, num_negatives, seed)


def false_negative_rate(miner: NegativeMiner, pool: NegativePool, num_negatives: int, seed: int) -> float | None:
    """Estimate of how often a right answer that nobody labelled is mined as a wrong one.

    Of every query with two right answers or more one is hidden; the share of those that come back as wrong answers is
    the chance that an unlabelled one does. None where fewer than twenty queries have two.
    """
    chosen = [query for query, right in enumerate(pool.positives) if len(right) > 1]
    if len(chosen) < MIN_QUERIES:
        return None
    draw = np.random.default_rng(seed)
    hidden = [int(draw.choice(pool.positives[query])) for query in chosen]
    shown = [
        pool.positives[query][pool.positives[query] != number] for query, number in zip(chosen, hidden, strict=True)
    ]
    vectors = None if pool.vectors is None else (pool.vectors[0][chosen], pool.vectors[1])
    part = NegativePool([pool.queries[q] for q in chosen], pool.passages, shown, vectors, pool.judge, pool.search)
    numbers = mine_negatives(miner, part, num_negatives, seed).numbers
    return float(np.mean([number in row for number, row in zip(hidden, numbers, strict=True)]))
