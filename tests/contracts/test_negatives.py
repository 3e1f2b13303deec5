"""What every miner of wrong answers promises, over whatever parts lie in the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from encodery.base.parts import find_part, part_names
from encodery.base.settings import decode, encode
from encodery.embed.mining import mine_negatives
from encodery.embed.negatives import NegativeMiner, NegativePool
from encodery.embed.negatives.hard import HardNegatives

RNG = np.random.default_rng(0)
P, Q, K = 60, 15, 8
PASSAGES = [f"passage {i}" for i in range(P)]
QUERIES = [f"query {i}" for i in range(Q)]


def unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found.astype(np.float32)


def hay() -> NegativePool:
    passages = unit(RNG.standard_normal((P, K)))
    right = [np.sort(RNG.choice(P, size=int(n), replace=False)) for n in RNG.integers(1, 4, Q)]
    queries = unit(np.stack([passages[some[0]] + 0.3 * RNG.standard_normal(K) for some in right]))

    def judge(query: str, texts: Sequence[str]) -> np.ndarray:
        number = QUERIES.index(query)
        return np.array([queries[number] @ passages[PASSAGES.index(text)] for text in texts])

    def search(query: str, count: int) -> list[int]:
        return np.argsort(-(passages @ queries[QUERIES.index(query)]))[:count].tolist()

    return NegativePool(QUERIES, PASSAGES, right, (queries, passages), judge, search)


def made(name: str) -> NegativeMiner:
    part = find_part(NegativeMiner, name)
    return part(miner=HardNegatives()) if any(f.name == "miner" for f in dataclasses.fields(part)) else part()


@pytest.mark.parametrize("name", part_names(NegativeMiner))
def test_wrong_answers_are_wrong_differ_and_repeat(name: str) -> None:
    part, stack = made(name), hay()
    found = mine_negatives(part, stack, 5, seed=3)
    assert found.indices.shape == (Q, 5)
    assert found.indices.dtype == np.int64
    for row, right in zip(found.indices, stack.positives, strict=True):
        kept = row[row >= 0]
        assert not set(kept) & set(right)
        assert len(set(kept)) == len(kept)
        assert (row[len(kept) :] == -1).all(), "what is lacking stands at the end"
    assert (found.indices >= 0).mean() > 0.5
    assert 0 <= found.filtered_fraction < 1
    np.testing.assert_array_equal(mine_negatives(part, stack, 5, seed=3).indices, found.indices)


@pytest.mark.parametrize("name", part_names(NegativeMiner))
def test_more_are_asked_than_there_are(name: str) -> None:
    few = hay()
    small = NegativePool(
        QUERIES[:2],
        PASSAGES[:4],
        [np.array([0]), np.array([1, 2])],
        (few.vectors[0][:2], few.vectors[1][:4]),  # type: ignore[index]
        few.judge,
        lambda query, count: list(range(4))[:count],
    )
    found = mine_negatives(made(name), small, 10, seed=0).indices
    assert found.shape == (2, 10)
    assert set(found[1]) <= {-1, 0, 3}


@pytest.mark.parametrize("name", part_names(NegativeMiner))
def test_settings_round_trip(name: str) -> None:
    assert decode(NegativeMiner, encode(made(name))) == made(name)
