"""Checks of systems, on five texts of lower-case letters and spaces; one is empty. Shapes: N texts, K dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from encodery.base.settings import decode, encode
from encodery.checks import applies, raised_message
from encodery.evaluate.systems import OpenSystem, System, UnsupportedEvaluation
from encodery.evaluate.unit_length import unit_length

TEXTS = ("a cat sat on the mat", "", "dogs and cats", "the mat", "a cat sat on the mat " * 3)
"""An index must contain these texts, except the empty one, under their numbers."""


def example(part: System) -> OpenSystem:
    """Open the system and fit it to the texts."""
    system = part.open()
    system.fit(TEXTS)
    return system


def dense(vectors: Any) -> np.ndarray:
    """Return vectors (N, K) as an array, whether they are sparse or not."""
    return vectors if isinstance(vectors, np.ndarray) else vectors.toarray()


def check_settings_round_trip(part: System) -> None:
    """The part is what its settings decode to, and it has a label, which is the name of the open system."""
    assert decode(System, encode(part)) == part
    assert part.label, "the system has no label"
    system = part.open()
    assert system.name == part.label
    system.close()


def check_embeddings(part: System) -> None:
    """Texts have finite vectors in their order, the same alone and among others."""
    system = example(part)
    vectors = dense(system.encode(TEXTS, "document"))
    assert vectors.shape[0] == len(TEXTS), f"{vectors.shape[0]} vectors for {len(TEXTS)} texts"
    assert np.isfinite(vectors).all(), "a vector is not finite"
    alone = dense(system.encode(TEXTS[2:3], "document"))
    np.testing.assert_allclose(alone[0], vectors[2], rtol=0, atol=1e-5)


def check_counters(part: System) -> None:
    """The system counts the texts, tokens and seconds of encoding."""
    system = example(part)
    system.encode(TEXTS, "document")
    system.encode(TEXTS[2:3], "document")
    counters = system.counters
    assert counters.texts == len(TEXTS) + 1, f"{counters.texts} texts were counted, not {len(TEXTS) + 1}"
    assert counters.seconds > 0, "the time was not measured"
    assert counters.tokens, "the tokens were not counted"
    assert counters.padding is None or counters.padding >= 0


def check_a_text_is_most_similar_to_itself(part: System) -> None:
    """As a query, a text has its highest score with itself as a document."""
    system = example(part)
    queries, documents = system.encode(TEXTS[2:4], "query"), system.encode(TEXTS, "document")
    if system.symmetric:
        queries, documents = unit_length(queries), unit_length(documents)
    assert dense(queries @ documents.T).argmax(1).tolist() == [2, 3]


def check_ranking(part: System) -> None:
    """A system without embeddings ranks documents, the best first; `rank` of the others returns None."""
    system = part.open()
    documents = {str(number): text for number, text in enumerate(TEXTS)}
    run = system.rank({"a": TEXTS[2], "b": "zzz"}, documents, 2)
    system.close()
    if applies(check_embeddings, part):
        assert run is None, "the system has embeddings and ranks"
        return
    assert run is not None, "the system has no embeddings and does not rank"
    assert set(run) == {"a", "b"}, "not every query has a result"
    assert max(run["a"], key=lambda name: run["a"][name]) == "2"
    assert all(len(scores) <= 2 for scores in run.values()), "more documents were returned than requested"


def check_no_task_head(part: System) -> None:
    """A system without a task head says so."""
    system = part.open()
    assert "encodery finetune TASK DATA" in raised_message(UnsupportedEvaluation, system.predictor)
    assert not system.task, "the system has the name of a task"
    system.close()


def check_no_masked_language_model(part: System) -> None:
    """A system without a masked language model says so."""
    system = part.open()
    assert "not a masked language model" in raised_message(UnsupportedEvaluation, system.loaded)
    system.close()
