"""Mine negatives for training data, and estimate how many of them are false negatives.

Shapes: E examples, Q queries, P passages, K dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.embed.negatives import Judge, MinedNegatives, NegativeMiner, NegativePool, TextSearch
from encodery.encoders.single_vector import SingleVectorEncoder

MIN_QUERIES = 20  # for an estimate of the false-negative rate


def build_pool(
    anchors: Sequence[str],
    positives: Sequence[str],
    encoder: SingleVectorEncoder | None = None,
    prompts: tuple[str | None, str | None] = (None, None),
    judge: Judge | None = None,
    search: TextSearch | None = None,
    truncate: str = "right",
) -> tuple[NegativePool, np.ndarray]:
    """Return the pool of the distinct anchors and the distinct positives, and the query (E,) of each example.

    Args:
        anchors: of E examples.
        positives: of E examples; those of equal anchors are positives of one query.
        encoder: gives the vectors; None if no miner requires them.
        prompts: names of the prompts of queries and of passages.
        judge: a cross-encoder.
        search: a term search.
        truncate: what happens to texts that are too long for the encoder.
    """
    queries, passages = list(dict.fromkeys(anchors)), list(dict.fromkeys(positives))
    query_of = {text: index for index, text in enumerate(queries)}
    passage_of = {text: index for index, text in enumerate(passages)}
    relevant: list[set[int]] = [set() for _ in queries]
    for anchor, positive in zip(anchors, positives, strict=True):
        relevant[query_of[anchor]].add(passage_of[positive])
        if anchor in passage_of:
            relevant[query_of[anchor]].add(passage_of[anchor])
    vectors = None
    if encoder is not None:
        encoded = (
            encoder.encode(texts, truncate=truncate, prompt=prompt).vectors
            for texts, prompt in zip((queries, passages), prompts, strict=True)
        )
        left, right = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in encoded)
        vectors = left, right
    indices = [np.array(sorted(some), np.int64) for some in relevant]
    pool = NegativePool(queries, passages, indices, vectors, judge, search)
    return pool, np.array([query_of[anchor] for anchor in anchors], np.int64)


def mine_negatives(miner: NegativeMiner, pool: NegativePool, num_negatives: int, seed: int) -> MinedNegatives:
    """Return the negatives that a miner finds. Raises `SettingsError` naming what the pool lacks."""
    for required in miner.requires:
        if getattr(pool, required) is None:
            hint = ""
            if required == "judge":
                hint = (
                    " Give a cross-encoder to `encodery embed mine-negatives --judge`, and train on the file it writes."
                )
            raise SettingsError(f"miner = '{name_of(miner)}': requires {required}, and there is none here.{hint}")
    return miner.mine(pool, num_negatives, seed)


def false_negative_rate(miner: NegativeMiner, pool: NegativePool, num_negatives: int, seed: int) -> float | None:
    """Estimate how often a relevant passage that is not labelled is mined as a negative.

    One positive of every query that has several is withheld; returns the fraction of these that is mined. None if
    fewer than twenty queries have several positives.
    """
    chosen = [query for query, positives in enumerate(pool.positives) if len(positives) > 1]
    if len(chosen) < MIN_QUERIES:
        return None
    draw = np.random.default_rng(seed)
    hidden = [int(draw.choice(pool.positives[query])) for query in chosen]
    labelled = [
        pool.positives[query][pool.positives[query] != index] for query, index in zip(chosen, hidden, strict=True)
    ]
    vectors = None if pool.vectors is None else (pool.vectors[0][chosen], pool.vectors[1])
    queries = [pool.queries[query] for query in chosen]
    part = NegativePool(queries, pool.passages, labelled, vectors, pool.judge, pool.search)
    indices = mine_negatives(miner, part, num_negatives, seed).indices
    return float(np.mean([index in row for index, row in zip(hidden, indices, strict=True)]))


def mining_notes(mined: MinedNegatives, rate: float | None) -> list[str]:
    """Return lines for the user: how many negatives were found and filtered, and their false-negative `rate`."""
    notes = [
        f"{(mined.indices >= 0).mean():.0%} of the negatives found; {mined.filtered_fraction:.1%} of the candidates "
        "left out as probable false negatives"
    ]
    if rate is not None:
        notes.append(f"a relevant text that is not labelled would be mined as a negative with probability {rate:.1%}")
    return notes
