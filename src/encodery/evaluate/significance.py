"""Confidence intervals of metrics, and tests whether two systems differ by more than chance.

Intervals are percentiles of the bootstrap: items are drawn with replacement, and two systems are compared on the same
draws. The p-values are those of two-sided randomisation tests, as arXiv:1809.01448 recommends for language processing:
if there were no difference, the two values of each item could be swapped. For a mean over items, the signs of the
differences are flipped (exactly, if there are few items); for other metrics (a correlation, F1) whole predictions are
swapped. A seed determines all results. Shapes: N items, G groups of items, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encodery.base.errors import EmptyInput, InputError

Values = npt.NDArray[np.float64]
Statistic = Callable[[np.ndarray, np.ndarray], float]
"""From truth (N, ...) and predictions (N, ...) to a metric."""
Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 10_000
METRIC_RESAMPLES = 1000  # For metrics that are computed again for every draw.
GROUP_RESAMPLES = 1000
MIN_ITEMS = 8  # Items or groups; with fewer there is no interval.
BLOCK_NUMBERS = 1 << 22  # Random numbers drawn at a time.


@dataclass(frozen=True)
class Difference:
    """The difference of a metric between two systems.

    `interval` is its 95 % interval, None for fewer than eight items; `p` is the probability of a difference as large by
    chance.
    """

    value: float
    interval: Interval | None
    p: float


def mean_interval(each: Values, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Return the 95 % interval of the mean of values (N,); None for fewer than eight items."""
    values = _checked(each)
    return _percentiles(_bootstrapped_means(values, seed, resamples)) if len(values) >= MIN_ITEMS else None


def mean_difference(one: Values, other: Values, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Return the mean of `other` minus that of `one` over the same items (N,), with interval and p-value."""
    differences = _paired(other, one)
    interval = mean_interval(differences, seed, resamples)
    return Difference(float(differences.mean()), interval, sign_flip(differences, seed, resamples))


def sign_flip(differences: Values, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Return the probability of a mean as far from zero as that of the differences (N,), if their signs were random.

    It is exact if there are at most `resamples` patterns of signs; otherwise it is estimated from `resamples` patterns,
    and the observed one is counted.
    """
    values = _checked(differences)
    values = values[values != 0]  # Zeros do not change the sum.
    observed = abs(float(values.sum())) * (1 - 1e-12)
    if not len(values):
        return 1.0
    if 2 ** min(len(values), 63) <= resamples:
        patterns = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1
        return float((np.abs((2.0 * patterns - 1) @ values) >= observed).mean())
    generator = np.random.default_rng(seed)
    reached = 0
    for rows in _rows(resamples, len(values)):
        bits = np.unpackbits(np.frombuffer(generator.bytes(rows * -(-len(values) // 8)), np.uint8).reshape(rows, -1), 1)
        sums = 2 * (bits[:, : len(values)].astype(np.float64) @ values) - values.sum()
        reached += int((np.abs(sums) >= observed).sum())
    return (reached + 1) / (resamples + 1)


def metric_interval(
    statistic: Statistic,
    truth: np.ndarray,
    predicted: np.ndarray,
    seed: int = 0,
    resamples: int = METRIC_RESAMPLES,
) -> Interval | None:
    """Return the 95 % interval of a metric that is not a mean over items; None for fewer than eight items.

    Draws for which the metric is undefined (a correlation of constants, a single class) are left out.
    """
    _same(truth, predicted)
    if len(truth) < MIN_ITEMS:
        return None
    values = [statistic(truth[rows], predicted[rows]) for rows in _draws(len(truth), seed, resamples)]
    return _percentiles(np.array(values))


def metric_difference(
    statistic: Statistic,
    truth: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    seed: int = 0,
    resamples: int = METRIC_RESAMPLES,
    swap: bool = True,
) -> Difference:
    """Return the metric of `other` minus that of `one` on the same items, by paired bootstrap and swapped predictions.

    Swapping needs predictions on one scale, such as ranks or classes. For others (the numbers of clusters) use
    `swap=False`: the p-value is then twice the fraction of bootstrap draws in which the difference has the other sign.
    """
    _same(truth, one)
    _same(truth, other)
    value = statistic(truth, other) - statistic(truth, one)
    draws = _draws(len(truth), seed, resamples)
    differences = np.array([statistic(truth[rows], other[rows]) - statistic(truth[rows], one[rows]) for rows in draws])
    interval = _percentiles(differences) if len(truth) >= MIN_ITEMS else None
    p = _swapped(statistic, truth, one, other, seed, resamples) if swap else _sign_change(differences)
    return Difference(float(value), interval, p)


def _swapped(
    statistic: Statistic, truth: np.ndarray, one: np.ndarray, other: np.ndarray, seed: int, resamples: int
) -> float:
    observed = abs(statistic(truth, other) - statistic(truth, one)) * (1 - 1e-12)
    generator = np.random.default_rng(seed)
    reached, defined = 0, 0
    for _ in range(resamples):
        swap = (generator.random(len(truth)) < 0.5).reshape(-1, *(1,) * (one.ndim - 1))
        mixed = statistic(truth, np.where(swap, one, other)) - statistic(truth, np.where(swap, other, one))
        defined += not np.isnan(mixed)
        reached += abs(mixed) >= observed
    return float((reached + 1) / (defined + 1))


def _sign_change(differences: Values) -> float:
    defined = differences[~np.isnan(differences)]
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(defined) + 1))


def group_interval(sums: Values, counts: Values, seed: int = 0) -> Interval | None:
    """Return the 95 % interval of Σ sums / Σ counts, both (G,); None for fewer than eight groups.

    Whole groups are drawn, because the items of a group (the tokens of a document) are not independent.
    """
    if len(sums) < MIN_ITEMS:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(sums), (GROUP_RESAMPLES, len(sums)))
    return _percentiles(sums[drawn].sum(1) / counts[drawn].sum(1))


def group_difference(one: Values, other: Values, counts: Values, seed: int = 0) -> Interval | None:
    """Return the 95 % interval of the mean of `other` minus that of `one`, on the same groups (G,) and counts."""
    return group_interval(other - one, counts, seed)


def _bootstrapped_means(values: Values, seed: int, resamples: int) -> Values:
    generator = np.random.default_rng(seed)
    pieces = [
        values[generator.integers(0, len(values), (rows, len(values)))].mean(1)
        for rows in _rows(resamples, len(values))
    ]
    return np.concatenate(pieces)


def _draws(count: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(0, count, count)


def _rows(resamples: int, width: int) -> Iterator[int]:
    """Yield how many resamples to draw at a time, so that memory is bounded."""
    size = max(1, BLOCK_NUMBERS // max(width, 1))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _percentiles(values: Values) -> Interval | None:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _checked(each: Values) -> Values:
    values = np.asarray(each, np.float64)
    if values.ndim != 1 or not len(values):
        raise EmptyInput(f"One value per item is needed, not the shape {values.shape}.")
    if np.isnan(values).any():
        raise InputError(f"{int(np.isnan(values).sum())} of {len(values)} items have no value (NaN).")
    return values


def _paired(left: Values, right: Values) -> Values:
    if len(left) != len(right):
        raise InputError(
            f"There are {len(right)} and {len(left)} items, but two systems must be compared on the same items."
        )
    return _checked(np.asarray(left, np.float64) - np.asarray(right, np.float64))


def _same(truth: np.ndarray, predicted: np.ndarray) -> None:
    if not len(truth):
        raise EmptyInput("There are no items.")
    if len(truth) != len(predicted):
        raise InputError(f"There are {len(truth)} items but {len(predicted)} predictions.")
