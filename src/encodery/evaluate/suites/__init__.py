"""Suites: what is measured, on data from a folder or file of one's own; nothing is fetched.

A suite reads its items once and measures any system on them. A figure keeps what it was computed from, item by item, so
that it has an interval and can be compared in pairs. Shapes: N items.
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
    """A number and what it is made of: the mean of `each` (N,), or `statistic` of `truth` and `predicted` (N, ...).

    `swappable`: predictions of two systems have one scale (see `figure_difference`). With neither it is just a number.
    """

    value: float
    per_item: np.ndarray | None = None
    statistic: Statistic | None = None
    truth: np.ndarray | None = None
    predicted: np.ndarray | None = None
    exchangeable: bool = True

    @classmethod
    def mean(cls, each: np.ndarray) -> MetricValue:
        """A mean over items (N,)."""
        values = np.asarray(each, np.float64)
        return cls(float(values.mean()), values)

    @classmethod
    def of(cls, statistic: Statistic, truth: np.ndarray, predicted: np.ndarray, swappable: bool = True) -> MetricValue:
        """A figure over all items that is no mean over them."""
        return cls(float(statistic(truth, predicted)), None, statistic, truth, predicted, swappable)

    def interval(self, seed: int = 0) -> Interval | None:
        """Its 95 % interval; None where there are too few items, or it is just a number."""
        if self.per_item is not None:
            return mean_interval(self.per_item, seed)
        if self.statistic is None or self.truth is None or self.predicted is None:
            return None
        return metric_interval(self.statistic, self.truth, self.predicted, seed)

    def difference_to(self, first: MetricValue, seed: int = 0) -> Difference | None:
        """This figure minus the first system's, over the same items; None where either is just a number."""
        if self.per_item is not None and first.per_item is not None:
            return mean_difference(first.per_item, self.per_item, seed)
        if self.statistic is None or self.truth is None or self.predicted is None or first.predicted is None:
            return None
        return metric_difference(
            self.statistic, self.truth, first.predicted, self.predicted, seed, swap=self.exchangeable
        )


class Suite(Part):
    """Reads items and measures systems on them."""

    @property
    @abc.abstractmethod
    def main_metric(self) -> str:
        """The name of the figure by which systems are compared; empty where it depends on what is measured, whose
        first figure it then is."""

    @abc.abstractmethod
    def read(self, data: Path) -> Any:
        """The items, with a length. Raises `InputError` naming file and line for what they cannot be made of."""

    @abc.abstractmethod
    def measure(self, items: Any, system: OpenSystem) -> dict[str, MetricValue]:
        """Figures by name, `main` first. Raises `Incapable` where the system cannot do what is asked."""
