"""The one protocol by which frozen vectors are judged: logistic regression, its strength chosen on the training rows.

A fifth of the training rows, by a fixed seed, tells which of four strengths of regularisation serves best; with that
one the probe is fitted on all of them. Vectors are taken as they come. Shapes: N rows, K width, C classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from encodery.base.errors import InputError
from encodery.base.extras import require

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # scikit-learn's C; vectors of unit length want large ones
STEPS = 500
FIXED, FEW_STEPS = 0.1, 60
HELD_OUT = 0.2


def fit(vectors: Any, labels: np.ndarray, seed: int = 0) -> Any:
    """A fitted classifier of vectors (N, K), dense or sparse, and labels (N,).

    Raises `InputError` where there are fewer than two classes.
    """
    if len(np.unique(labels)) < 2:
        raise InputError(f"The training rows have {len(np.unique(labels))} class; two are needed at least.")
    return _fitted(vectors, labels, _strength(vectors, labels, seed))


def fit_once(vectors: Any, labels: np.ndarray) -> Any:
    """The same at a fixed strength and in few steps, for many probes on states (N, K) of variance one."""
    if len(np.unique(labels)) < 2:
        raise InputError("The training rows have one class; two are needed at least.")
    return _fitted(vectors, labels, FIXED, FEW_STEPS)


def _strength(vectors: Any, labels: np.ndarray, seed: int) -> float:
    order = np.random.default_rng(seed).permutation(len(labels))
    held = order[: int(HELD_OUT * len(labels))]
    kept = order[len(held) :]
    if len(held) < len(np.unique(labels)) or len(np.unique(labels[kept])) < 2:
        return STRENGTHS[1]
    scores = [
        (_fitted(vectors[kept], labels[kept], strength).predict(vectors[held]) == labels[held]).mean()
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(scores))]


def _fitted(vectors: Any, labels: np.ndarray, strength: float, steps: int = STEPS) -> Any:
    linear = require("sklearn.linear_model", "evaluate")
    exceptions = require("sklearn.exceptions", "evaluate")
    with warnings.catch_warnings():  # the number of steps belongs to the protocol
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        return linear.LogisticRegression(C=strength, max_iter=steps).fit(vectors, labels)
