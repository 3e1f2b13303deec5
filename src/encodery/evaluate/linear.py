"""Logistic regression on frozen embeddings: the protocol of classification suites and probes.

The strength of regularisation is the best of four on a fifth of the training examples, drawn with a fixed seed; the
classifier is then fitted on all of them. Embeddings are used as they are. Shapes: N examples, K dimensions, C classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.base.extras import require

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # scikit-learn's C. Embeddings of unit length need large values.
STEPS = 500
FIXED, FEW_STEPS = 0.1, 60
HELDOUT_FRACTION = 0.2


def fit(vectors: Any, labels: np.ndarray, seed: int = 0) -> Any:
    """Return a classifier fitted on embeddings (N, K), dense or sparse, and labels (N,).

    Raises `InputError` for fewer than two classes.
    """
    if len(np.unique(labels)) < 2:
        raise InputError(f"The training examples have {len(np.unique(labels))} class; at least two are needed.")
    return _fitted(vectors, labels, _strength(vectors, labels, seed))


def fit_once(vectors: Any, labels: np.ndarray) -> Any:
    """Fit with a fixed strength and few steps, for many probes on hidden states (N, K) of variance 1."""
    if len(np.unique(labels)) < 2:
        raise InputError("The training examples have one class; at least two are needed.")
    return _fitted(vectors, labels, FIXED, FEW_STEPS)


def _strength(vectors: Any, labels: np.ndarray, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(labels))
    heldout = order[: int(HELDOUT_FRACTION * len(labels))]
    kept = order[len(heldout) :]
    if len(heldout) < len(np.unique(labels)) or len(np.unique(labels[kept])) < 2:
        return STRENGTHS[1]
    scores = [
        (_fitted(vectors[kept], labels[kept], strength).predict(vectors[heldout]) == labels[heldout]).mean()
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(scores))]


def _fitted(vectors: Any, labels: np.ndarray, strength: float, steps: int = STEPS) -> Any:
    linear = require("sklearn.linear_model", "evaluate")
    exceptions = require("sklearn.exceptions", "evaluate")
    with warnings.catch_warnings():  # The number of steps is part of the protocol.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        return linear.LogisticRegression(C=strength, max_iter=steps).fit(vectors, labels)
