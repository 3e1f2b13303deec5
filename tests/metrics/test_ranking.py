"""Ranking metrics, compared with values computed by hand and with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.base.errors import EmptyInput, InputError
from encodery.metrics.accuracy import Accuracy
from encodery.metrics.mrr import MRR
from encodery.metrics.ndcg import NDCG
from encodery.metrics.perplexity import Perplexity
from encodery.metrics.recall import Recall


def test_ndcg_by_hand() -> None:
    truth = {"q": {"a": 3, "b": 2, "c": 1}}
    run = {"q": {"b": 4.0, "x": 3.0, "a": 2.0}}  # grades 2, 0, 3
    gain = 2 / np.log2(2) + 3 / np.log2(4)
    ideal = 3 / np.log2(2) + 2 / np.log2(3) + 1 / np.log2(4)
    assert NDCG(k=10).score(truth, run) == pytest.approx(gain / ideal)
    assert NDCG(k=1).score(truth, run) == pytest.approx(2 / 3)


def test_ndcg_equals_scikit_learn_on_full_rankings() -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    grades, scores = rng.integers(0, 4, (20, 15)), rng.standard_normal((20, 15))
    grades[:, 0] = 1
    truth = {str(q): {str(d): int(g) for d, g in enumerate(row)} for q, row in enumerate(grades)}
    run = {str(q): {str(d): float(s) for d, s in enumerate(row)} for q, row in enumerate(scores)}
    assert NDCG(k=10).score(truth, run) == pytest.approx(ndcg_score(grades, scores, k=10))


def test_a_query_without_retrieved_documents_scores_zero() -> None:
    truth = {"q": {"a": 1}, "unanswered": {"b": 1}}
    run = {"q": {"a": 1.0}}
    assert MRR().score(truth, run) == pytest.approx(0.5)
    assert NDCG().score(truth, run) == pytest.approx(0.5)
    assert Recall().score(truth, run) == pytest.approx(0.5)


def test_a_query_without_relevant_documents_is_omitted() -> None:
    assert MRR().per_item({"q": {"a": 1}, "void": {"b": 0}}, {"q": {"a": 1.0}}).tolist() == [1.0]
    with pytest.raises(EmptyInput, match="relevant"):
        MRR().score({"void": {"b": 0}}, {})


def test_depth_is_applied_and_ties_follow_trec_eval() -> None:
    truth = {"q": {"b": 1}}
    run = {"q": {"a": 1.0, "b": 1.0, "c": 1.0}}  # equal scores: c, b, a
    assert MRR(k=10).score(truth, run) == pytest.approx(0.5)
    assert MRR(k=1).score(truth, run) == 0
    assert Recall(k=2).score({"q": {"a": 1, "b": 1}}, run) == pytest.approx(0.5)


def test_perplexity_of_uniform_probabilities_and_its_errors() -> None:
    assert Perplexity().score(np.arange(3), np.log(np.full(3, 1 / 8))) == pytest.approx(8)
    with pytest.raises(InputError, match="at most 0"):
        Perplexity().score(np.arange(2), np.array([2.0, 3.0]))
    with pytest.raises(InputError, match="log-probabilities"):
        Perplexity().score(np.arange(2), np.array([-1.0]))


def test_accuracy_accepts_any_labels_and_refuses_other_shapes() -> None:
    assert Accuracy().score(["x", "y"], ["x", "z"]) == 0.5
    with pytest.raises(InputError, match="shape"):
        Accuracy().score([1, 2], [1])
