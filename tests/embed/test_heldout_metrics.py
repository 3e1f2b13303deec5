"""Metrics of held-out examples."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.embed import heldout_metrics
from encodery.embed.heldout_metrics import EncodedVectors, nearest_neighbour_accuracy, retrieval_metrics


def test_metrics_do_not_depend_on_how_many_similarities_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    texts = EncodedVectors(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    numbers = np.stack([rng.integers(0, 25, 40), rng.integers(20, 60, 40)], 1)
    classes = rng.integers(0, 4, 40)
    retrieval, neighbours = (
        retrieval_metrics(texts, numbers),
        nearest_neighbour_accuracy(texts, numbers[:, :1], classes),
    )
    for limit in (1, 100, 137):
        monkeypatch.setattr(heldout_metrics, "SIMILARITIES_AT_ONCE", limit)
        assert retrieval_metrics(texts, numbers) == pytest.approx(retrieval)
        assert nearest_neighbour_accuracy(texts, numbers[:, :1], classes) == neighbours
