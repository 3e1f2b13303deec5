"""The value of a metric, with the items it was computed from, for intervals and paired comparisons. Shapes: N items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.evaluate.significance import (
    Difference,
    Interval,
    Statistic,
    mean_difference,
    mean_interval,
    metric_difference,
    metric_interval,
)


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
