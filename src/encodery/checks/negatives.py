"""Checks of miners of negatives, each on a random pool. Shapes: Q queries, P passages, K dimensions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from encodery.base.settings import decode, encode
from encodery.embed.mining import mine_negatives
from encodery.embed.negatives import NegativeMiner, NegativePool
from encodery.embed.negatives.hard import HardNegatives

P, Q, K, N = 60, 15, 8, 5
PASSAGES = [f"passage {i}" for i in range(P)]
QUERIES = [f"query {i}" for i in range(Q)]


def example_part(kind: type[NegativeMiner]) -> NegativeMiner:
    """Return the part at its defaults; a filter of another miner gets hard negatives inside."""
    wraps = any(field.name == "miner" for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    return kind(miner=HardNegatives()) if wraps else kind()  # type: ignore[call-arg]


def example() -> NegativePool:
    """Return a pool with vectors, a judge and a search that agree: all of them use the vectors."""
    draw = np.random.default_rng(0)

    def unit(vectors: np.ndarray) -> np.ndarray:
        normalised: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normalised.astype(np.float32)

    passages = unit(draw.standard_normal((P, K)))
    positives = [np.sort(draw.choice(P, size=int(n), replace=False)) for n in draw.integers(1, 4, Q)]
    queries = unit(np.stack([passages[some[0]] + 0.3 * draw.standard_normal(K) for some in positives]))

    def judge(query: str, texts: Sequence[str]) -> np.ndarray:
        vector = queries[QUERIES.index(query)]
        return np.array([vector @ passages[PASSAGES.index(text)] for text in texts])

    def search(query: str, count: int) -> list[int]:
        best: list[int] = np.argsort(-(passages @ queries[QUERIES.index(query)]))[:count].tolist()
        return best

    return NegativePool(QUERIES, PASSAGES, positives, (queries, passages), judge, search)


def check_settings_round_trip(miner: NegativeMiner) -> None:
    """The miner is what its settings decode to."""
    assert decode(NegativeMiner, encode(miner)) == miner


def check_negatives_are_distinct_and_not_positive(miner: NegativeMiner) -> None:
    """No negative is a positive or occurs twice; missing ones are -1, at the end; most are found."""
    pool = example()
    mined = mine_negatives(miner, pool, N, seed=3)
    assert mined.indices.shape == (Q, N)
    assert mined.indices.dtype == np.int64
    for row, positives in zip(mined.indices, pool.positives, strict=True):
        kept = row[row >= 0]
        assert not set(kept) & set(positives), "a positive was mined"
        assert len(set(kept)) == len(kept), "a negative occurs twice"
        assert (row[len(kept) :] == -1).all(), "missing negatives are not at the end"
    assert (mined.indices >= 0).mean() > 0.5
    assert 0 <= mined.filtered_fraction < 1


def check_results_repeat(miner: NegativeMiner) -> None:
    """Equal arguments give equal negatives."""
    first, second = (mine_negatives(miner, example(), N, seed=3).indices for _ in range(2))
    np.testing.assert_array_equal(first, second)


def check_requirements_are_declared(miner: NegativeMiner) -> None:
    """A pool with nothing but what the miner declares in `requires` is enough."""
    pool = example()
    missing = {name: None for name in ("vectors", "judge", "search") if name not in miner.requires}
    mined = mine_negatives(miner, dataclasses.replace(pool, **missing), N, seed=0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(mined.indices, mine_negatives(miner, pool, N, seed=0).indices)


def check_small_pools(miner: NegativeMiner) -> None:
    """More negatives can be asked for than there are passages."""
    pool = example()
    assert pool.vectors is not None
    small = NegativePool(
        QUERIES[:2],
        PASSAGES[:4],
        [np.array([0]), np.array([1, 2])],
        (pool.vectors[0][:2], pool.vectors[1][:4]),
        pool.judge,
        lambda query, count: list(range(4))[:count],
    )
    indices = mine_negatives(miner, small, 10, seed=0).indices
    assert indices.shape == (2, 10)
    assert set(indices[1].tolist()) <= {-1, 0, 3}
