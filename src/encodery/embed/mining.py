"""Wrong answers for training data: mined with a model, and how many of them are likely right after all.

Shapes: E examples, Q queries, P passages, K width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.embed.embedder import Embedder
from encodery.embed.negatives import Haystack, Judge, Mined, Negatives, Search

LEAST = 20  # Queries below which a rate says nothing.


def haystack(
    anchors: Sequence[str],
    partners: Sequence[str],
    embedder: Embedder | None = None,
    prompts: tuple[str | None, str | None] = (None, None),
    judge: Judge | None = None,
    search: Search | None = None,
    truncate: str = "right",
) -> tuple[Haystack, np.ndarray]:
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
    hay = Haystack(queries, passages, [np.array(sorted(some), np.int64) for some in right], vectors, judge, search)
    return hay, np.array([places[anchor] for anchor in anchors], np.int64)


def mine(miner: Negatives, hay: Haystack, count: int, seed: int) -> Mined:
    """The miner's answers. Raises `SettingsError` naming what the haystack lacks."""
    for needed in miner.wants:
        if getattr(hay, needed) is None:
            how = (
                " A cross-encoder judges in `encodery embed mine-negatives --judge`, whose file is trained on."
                if needed == "judge"
                else ""
            )
            raise SettingsError(f"mine = '{name_of(miner)}': needs {needed}, which is not given here.{how}")
    return miner.mine(hay, count, seed)


def hidden_right(miner: Negatives, hay: Haystack, count: int, seed: int) -> float | None:
    """Estimate of how often a right answer that nobody labelled is mined as a wrong one.

    Of every query with two right answers or more one is hidden; the share of those that come back as wrong answers is
    the chance that an unlabelled one does. None where fewer than twenty queries have two.
    """
    chosen = [query for query, right in enumerate(hay.right) if len(right) > 1]
    if len(chosen) < LEAST:
        return None
    draw = np.random.default_rng(seed)
    hidden = [int(draw.choice(hay.right[query])) for query in chosen]
    shown = [hay.right[query][hay.right[query] != number] for query, number in zip(chosen, hidden, strict=True)]
    vectors = None if hay.vectors is None else (hay.vectors[0][chosen], hay.vectors[1])
    part = Haystack([hay.queries[q] for q in chosen], hay.passages, shown, vectors, hay.judge, hay.search)
    numbers = mine(miner, part, count, seed).numbers
    return float(np.mean([number in row for number, row in zip(hidden, numbers, strict=True)]))
