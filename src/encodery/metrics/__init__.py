"""Metrics: from truth and predictions to a number.

A metric that is a mean over items also returns the value of each item, so that two systems can be compared by paired
tests.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import numpy as np

from encodery.base.parts import Part

InputKind = Literal["classes", "probabilities", "numbers", "scores", "rankings", "tags", "answers", "log_probabilities"]


class Metric(Part):
    """A metric.

    Attributes:
        input_kind: what truth and predictions are.
        higher_is_better: False for errors and losses.
        best: the value of a perfect prediction.
    """

    input_kind: ClassVar[InputKind] = "classes"
    higher_is_better: ClassVar[bool] = True
    best: ClassVar[float] = 1.0

    @abc.abstractmethod
    def score(self, truth: Any, predicted: Any) -> float:
        """Return the value over all items.

        Raises `InputError` if there are no items, or if truth and predictions do not match.
        """

    def per_item(self, truth: Any, predicted: Any) -> np.ndarray | None:
        """Return the value of each item (N,) float64, in the order of `truth`; None if it is not a mean over items."""
        return None
