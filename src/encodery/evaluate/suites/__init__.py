"""Suites: evaluations on data in a folder or file; nothing is downloaded.

A suite reads its items once and evaluates any system on them. A metric keeps the values of the items that it was
computed from, so that it has an interval and can be compared in pairs. Shapes: N items.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.parts import Part
from encodery.evaluate.significance import (
    Difference,
    Interval,
    Statistic,
    mean_difference,
    mean_interval,
    metric_difference,
    metric_interval,
)
from encodery.evaluate.systems import OpenSystem


@dataclass(frozen=True, eq=False)
class MetricValue:
    """A metric and its origin: the mean of `per_item` (N,), or `statistic` of `truth` and `predicted` (N, ...).

    With neither it is a number without an interval. `exchangeable`: the predictions of two systems have one scale (see
    `metric_difference`).
    """

    value: float
    per_item: np.ndarray | None = None
    statistic: Statistic | None = None
    truth: np.ndarray | None = None
    predicted: np.ndarray | None = None
    exchangeable: bool = True

    @classmethod
    def mean(cls, per_item: np.ndarray) -> MetricValue:
        """Return the mean over items (N,)."""
        values = np.asarray(per_item, np.float64)
        return cls(float(values.mean()), values)

    @classmethod
    def of(
        cls, statistic: Statistic, truth: np.ndarray, predicted: np.ndarray, exchangeable: bool = True
    ) -> MetricValue:
        """Return a metric over all items that is not a mean over them."""
        return cls(float(statistic(truth, predicted)), None, statistic, truth, predicted, exchangeable)

    def interval(self, seed: int = 0) -> Interval | None:
        """Return the 95 % interval; None for too few items, or for a number without items."""
        if self.per_item is not None:
            return mean_interval(self.per_item, seed)
        if self.statistic is None or self.truth is None or self.predicted is None:
            return None
        return metric_interval(self.statistic, self.truth, self.predicted, seed)

    def difference_to(self, first: MetricValue, seed: int = 0) -> Difference | None:
        """Return this metric minus that of the first system on the same items; None if either is without items."""
        if self.per_item is not None and first.per_item is not None:
            return mean_difference(first.per_item, self.per_item, seed)
        if self.statistic is None or self.truth is None or self.predicted is None or first.predicted is None:
            return None
        return metric_difference(
            self.statistic, self.truth, first.predicted, self.predicted, seed, swap=self.exchangeable
        )


class Suite(Part):
    """Read items and evaluate systems on them."""

    @property
    @abc.abstractmethod
    def main_metric(self) -> str:
        """The name of the metric by which systems are compared; empty for the first metric that `measure` returns."""

    @abc.abstractmethod
    def read(self, data: Path) -> Any:
        """Return the items, which have a length. Raises `InputError` naming file and line of invalid data."""

    @abc.abstractmethod
    def measure(self, items: Any, system: OpenSystem) -> dict[str, MetricValue]:
        """Return metrics by name, the main one first. Raises `UnsupportedEvaluation`."""
