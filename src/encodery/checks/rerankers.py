"""Checks of rerankers, on five texts of the words red, one, cat, two, dog and sun; one is empty and one is long."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from encodery.base.errors import UserError
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.search.rerank import Reranker

TEXTS = ("Red cat, red sun.", "two dog", "", "red " * 60 + "cat", "one sun two cat dog")


def check_settings_round_trip(part: Reranker) -> None:
    """The part is what its settings decode to."""
    assert decode(Reranker, encode(part)) == part


def check_scores(part: Reranker) -> None:
    """Every text has one finite score, and no text has none; the scores differ between texts and between queries."""
    scorer = part.open()
    scores = scorer.score("red cat", TEXTS)
    assert scores.shape == (len(TEXTS),)
    assert np.isfinite(scores).all(), f"the scores are {scores}"
    assert len(set(scores.tolist())) > 1, "all texts have the same score"
    assert scorer.score("red cat", []).shape == (0,)
    assert not np.allclose(scorer.score("one dog", TEXTS), scores), "the query does not change the scores"


def check_scores_do_not_depend_on_other_texts(part: Reranker) -> None:
    """A text has the same score alone, among others and in another order."""
    scorer = part.open()
    scores = scorer.score("red cat", TEXTS)
    alone = [float(scorer.score("red cat", [text])[0]) for text in TEXTS]
    np.testing.assert_allclose(alone, scores, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(scorer.score("red cat", TEXTS[::-1]), scores[::-1], rtol=1e-6, atol=1e-5)


def check_missing_model(part: Reranker) -> None:
    """An empty `model` raises a `UserError`, and so does opening one that does not exist."""
    raised_message(UserError, lambda: dataclasses.replace(part, model=""))  # type: ignore[type-var]
    with tempfile.TemporaryDirectory() as folder:
        missing = dataclasses.replace(part, model=str(Path(folder) / "missing"))  # type: ignore[type-var]
        raised_message(UserError, missing.open)
