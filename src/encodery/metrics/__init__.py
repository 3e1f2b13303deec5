"""Figures of quality: truth and predictions to a number.

Per-item values exist where the figure is a mean over items, so that two systems can be compared in pairs.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np

from encodery.base.parts import Part


class Metric(Part):
    """A figure of quality. `higher_is_better` says which way to look."""

    higher_is_better: ClassVar[bool] = True

    @abc.abstractmethod
    def score(self, truth: Any, predicted: Any) -> float:
        """The figure over all items. Raises `InputError` when there are none, or the two do not match."""

    def per_item(self, truth: Any, predicted: Any) -> np.ndarray | None:
        """The figure of each item (N,) float64, in the order of `truth`; None where it is no mean over items."""
        return None
