"""Metrics: from truth and predictions to a number.

A metric that is a mean over items also returns the value of each item, so that two systems can be compared by paired
tests.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np

from encodery.base.parts import Part


class Metric(Part):
    """A metric. `higher_is_better` is False for errors and losses."""

    higher_is_better: ClassVar[bool] = True

    @abc.abstractmethod
    def score(self, truth: Any, predicted: Any) -> float:
        """Return the value over all items.

        Raises `InputError` if there are no items, or if truth and predictions do not match.
        """

    def per_item(self, truth: Any, predicted: Any) -> np.ndarray | None:
        """Return the value of each item (N,) float64, in the order of `truth`; None if it is not a mean over items."""
        return None
