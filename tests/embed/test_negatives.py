"""Miners one by one: limits, order, blocks; the estimate of the false-negative rate."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.embed.mining import build_pool, false_negative_rate, mine_negatives
from encodery.embed.negatives import NegativePool
from encodery.embed.negatives import hard as module
from encodery.embed.negatives.bm25 import BM25Negatives
from encodery.embed.negatives.hard import HardNegatives, nearest_passages
from encodery.embed.negatives.random import RandomNegatives
from encodery.embed.negatives.reranked import RerankedNegatives

COSINES = np.array([1.0, 0.97, 0.9, 0.8, 0.5, 0.1], np.float32)
QUERY = np.array([[1.0, 0.0]], np.float32)
PASSAGES = np.stack([COSINES, np.sqrt(1 - COSINES**2)], axis=1)
POOL = NegativePool(["q"], list("abcdef"), [np.array([2])], (QUERY, PASSAGES))


@pytest.mark.parametrize(
    ("miner", "expected", "filtered"),
    [
        (HardNegatives(margin=0.0), [3, 4, 5], 2),  # nothing above the positive's 0.9
        (HardNegatives(margin=0.12), [4, 5, -1], 3),  # below 0.9 - 0.9 · 0.12 = 0.792
        (HardNegatives(margin=0.05, relative=False), [3, 4, 5], 2),
        (HardNegatives(margin=0.15, relative=False), [4, 5, -1], 3),
        (HardNegatives(margin=0.0, max_similarity=0.4), [5, -1, -1], 4),
        (HardNegatives(margin=0.0, skip=3), [4, 5, -1], 0),
        (HardNegatives(margin=0.0, depth=3), [3, -1, -1], 2),
    ],
)
def test_hard_negatives_are_the_nearest_below_the_limit(
    miner: HardNegatives, expected: list[int], filtered: int
) -> None:
    mined = mine_negatives(miner, POOL, 3, 0)
    assert mined.indices.tolist() == [expected]
    assert mined.num_filtered == filtered
    assert mined.filtered_fraction == pytest.approx(filtered / mined.num_candidates)


def test_blocks_equal_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((n, 6)).astype(np.float32) for n in (23, 101))
    queries, passages = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, passages))
    expected = np.argsort(-(queries @ passages.T), axis=1)[:, :9]
    monkeypatch.setattr(module, "BLOCK", (5, 17))
    numbers, scores = nearest_passages(queries, passages, 9)
    np.testing.assert_array_equal(numbers, expected)
    assert (np.diff(scores, axis=1) <= 0).all()
    right = [np.array([int(row[0])]) for row in expected]
    pool = NegativePool([str(i) for i in range(23)], [str(i) for i in range(101)], right, (queries, passages))
    mined = mine_negatives(HardNegatives(margin=0.0), pool, 4, 0).indices
    np.testing.assert_array_equal(mined, expected[:, 1:5])


def test_the_judge_filters_probable_positives() -> None:
    scores = {"a": 9.0, "b": 4.0, "c": 5.0, "d": 4.9, "e": 0.0, "f": 5.0}
    pool = NegativePool(
        ["q"], list("abcdef"), POOL.positives, POOL.vectors, lambda q, texts: np.array([scores[t] for t in texts])
    )
    mined = mine_negatives(RerankedNegatives(miner=HardNegatives(margin=0.0, max_similarity=2.0, depth=9)), pool, 3, 0)
    assert mined.indices.tolist() == [[3, 4, -1]], "a is filtered by the inner miner's own limit, f by the judge"
    strict = mine_negatives(RerankedNegatives(miner=RandomNegatives(), margin=0.5), pool, 5, 0)
    assert set(strict.indices[0].tolist()) == {1, 4, -1}
    assert strict.num_filtered == 3


def test_bm25_skips_the_best() -> None:
    pool = NegativePool(["q"], list("abcdef"), POOL.positives, search=lambda query, count: [2, 5, 4, 3, 1, 0][:count])
    assert mine_negatives(BM25Negatives(skip=1), pool, 2, 0).indices.tolist() == [[4, 3]]


def test_a_missing_requirement_is_named() -> None:
    with pytest.raises(SettingsError, match="miner = 'hard': requires vectors"):
        mine_negatives(HardNegatives(), NegativePool(["q"], ["p"], [np.array([0])]), 1, 0)


def test_a_pool_joins_examples_of_one_query() -> None:
    pool, queries = build_pool(["q", "r", "q", "p1"], ["p1", "p2", "p3", "p2"])
    assert list(pool.queries) == ["q", "r", "p1"]
    assert list(pool.passages) == ["p1", "p2", "p3"]
    assert [right.tolist() for right in pool.positives] == [[0, 2], [1], [0, 1]], "a text is not a negative of itself"
    assert queries.tolist() == [0, 1, 0, 2]


def test_the_false_negative_rate_is_estimated_from_hidden_positives() -> None:
    """Every positive has a near twin: a filter by similarity leaves them out, no filter mines them."""
    rng = np.random.default_rng(0)
    passages = rng.standard_normal((60, 16))
    passages[30:] = passages[:30] + 0.05 * rng.standard_normal((30, 16))
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    queries = passages[:30] + 0.1 * rng.standard_normal((30, 16))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    right = [np.array([i, i + 30]) for i in range(30)]
    texts = [str(i) for i in range(60)]
    vectors = queries.astype(np.float32), passages.astype(np.float32)
    pool = NegativePool(texts[:30], texts, right, vectors)
    loose, strict = (
        false_negative_rate(HardNegatives(margin=margin, relative=False), pool, 3, 0) for margin in (0.0, 0.3)
    )
    assert loose is not None
    assert strict is not None
    assert strict < 0.1 < 0.3 < loose
    assert false_negative_rate(HardNegatives(), POOL, 3, 0) is None
