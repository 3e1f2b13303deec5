"""Examples as a loss reads them, and columns of negatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encodery.base.errors import EmptyInput, SettingsError
from encodery.embed.defaults import default_loss
from encodery.embed.examples import EmbeddingExamples, negative_columns, prepare_for_loss
from encodery.embed.losses.infonce import InfoNCE
from encodery.embed.losses.triplet import Triplet


def test_examples_are_prepared_for_the_loss(pairs: Any) -> None:
    some = pairs(6, 1)
    scored = EmbeddingExamples(some.columns, "score", np.array([0, 5, 1, 4, 2, 5], np.float32))
    assert len(prepare_for_loss(scored, InfoNCE())) == 3, "pairs above the middle score"
    with pytest.raises(EmptyInput, match="all scores are equal"):
        prepare_for_loss(EmbeddingExamples(some.columns, "score", np.ones(6, np.float32)), InfoNCE())
    with pytest.raises(SettingsError, match="needs a score for each pair, the data has texts alone"):
        prepare_for_loss(some, default_loss(scored))
    with pytest.raises(SettingsError, match="needs 3 texts per example; a negative is missing"):
        prepare_for_loss(some, Triplet())
    assert scored.take(np.array([1, 0])).columns[0] == [some.columns[0][1], some.columns[0][0]]


def test_negatives_become_columns() -> None:
    rows = [["a", "b", "c"], ["d"], ["e", "f"]]
    positives = ["x", "y", "z"]
    assert negative_columns(rows, None, positives) == (["a", "d", "e"],)
    first, second = negative_columns(rows, 2, positives)
    assert first == ["a", "d", "e"]
    assert (second[0], second[2]) == ("b", "f")
    assert second[1] in ("x", "z"), "the positive of another row"
    filled = negative_columns([[]] * 3, None, positives)[0]
    assert all(negative != positive for negative, positive in zip(filled, positives, strict=True))
