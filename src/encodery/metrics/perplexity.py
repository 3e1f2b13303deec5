"""Perplexity of the true tokens: exp of their mean negative log-probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import EmptyInput, InputError
from encodery.metrics import InputKind, Metric


@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """Truth: the tokens (N,). Prediction: the natural logarithm of the probability of each token (N,)."""

    input_kind: ClassVar[InputKind] = "log_probabilities"
    higher_is_better: ClassVar[bool] = False

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        tokens, logs = np.asarray(truth), np.asarray(predicted, np.float64)
        if tokens.shape != logs.shape:
            raise InputError(f"perplexity: tokens have the shape {tokens.shape}, but log-probabilities {logs.shape}.")
        if not logs.size:
            raise EmptyInput("perplexity: there are no tokens.")
        if logs.max() > 1e-6:
            raise InputError(
                f"perplexity: a log-probability is at most 0, not {logs.max():.4g}. Are these losses, or probabilities?"
            )
        return float(np.exp(-logs.mean()))
