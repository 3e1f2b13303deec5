"""Perplexity of the true tokens: exp of the mean negative log-probability they were given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import EmptyInput, InputError
from encodery.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """Truth: the tokens (N,). Prediction: the natural logarithm of the probability of each (N,)."""

    higher_is_better: ClassVar[bool] = False

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        tokens, logs = np.asarray(truth), np.asarray(predicted, np.float64)
        if tokens.shape != logs.shape:
            raise InputError(f"There are {tokens.shape} tokens and {logs.shape} log-probabilities.")
        if not logs.size:
            raise EmptyInput("No tokens: there is no perplexity of nothing.")
        if logs.max() > 1e-6:
            raise InputError(
                f"A log-probability is at most 0, not {logs.max():.4g}: these are losses, or no logarithms."
            )
        return float(np.exp(-logs.mean()))
