"""V-measure of a clustering, as in scikit-learn: the harmonic mean of homogeneity and completeness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import EmptyInput, InputError
from encodery.base.extras import require
from encodery.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class VMeasure(Metric):
    """Labels (N,) against clusters (N,) of any names; 1 if clusters and labels correspond one to one."""

    def score(self, truth: ArrayLike, predicted: ArrayLike) -> float:
        left, right = np.asarray(truth), np.asarray(predicted)
        if left.ndim != 1 or left.shape != right.shape:
            raise InputError(f"v_measure: labels are of shape {left.shape}, clusters of {right.shape}; (N,) is needed.")
        if not left.size:
            raise EmptyInput("v_measure: there are no items.")
        return float(require("sklearn.metrics", "evaluate").v_measure_score(left, right))
