"""How far a figure would move on other items of the same kind, and whether two systems differ by more than chance.

Intervals are percentiles of the bootstrap: items are drawn with replacement, the same draws for both systems where two
are compared. Probabilities are of randomisation tests, two-sided: under "no difference" each item's two values might as
well be swapped (arXiv:1809.01448 recommends them for figures of language processing). For a mean that is flipping signs
of the differences, exact where there are few items; for a figure that is no mean over items (a correlation, F1) whole
predictions are swapped. Everything follows from a seed. Shapes: N items, G groups of items, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encodery.base.errors import EmptyInput, InputError

Values = npt.NDArray[np.float64]
Statistic = Callable[[np.ndarray, np.ndarray], float]
"""Truth (N, ...) and predictions (N, ...) to a figure."""
Interval = tuple[float, float]

SHARE = 0.95
RESAMPLES = 10_000
RESAMPLES_OF_FIGURES = 1000  # of figures that are computed anew for every draw
GROUP_RESAMPLES = 1000
MIN_ITEMS = 8  # Items or groups below which an interval would mean nothing.
AT_ONCE = 1 << 22  # Numbers drawn at a time.


@dataclass(frozen=True)
class Difference:
    """`value` is the other's figure minus the one's, `interval` its 95 % interval (None for fewer than eight items),
    `p` how often chance alone makes a difference as large."""

    value: float
    interval: Interval | None
    p: float


def mean_interval(each: Values, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """The 95 % interval of the mean of values (N,); None below eight items."""
    values = _checked(each)
    return _middle(_bootstrapped_means(values, seed, resamples)) if len(values) >= MIN_ITEMS else None


def mean_difference(one: Values, other: Values, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """The mean of `other` minus that of `one` over the same items (N,), with interval and probability."""
    apart = _paired(other, one)
    return Difference(float(apart.mean()), mean_interval(apart, seed, resamples), sign_flip(apart, seed, resamples))


def sign_flip(apart: Values, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """The probability of a mean as far from zero as that of the differences (N,), if their signs were chance.

    Exact where there are at most `resamples` patterns of signs; else of `resamples` patterns, the observed one counted.
    """
    values = _checked(apart)
    values = values[values != 0]  # neither sign changes the sum
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
    resamples: int = RESAMPLES_OF_FIGURES,
) -> Interval | None:
    """The 95 % interval of a figure that is no mean over items; None below eight items.

    Draws for which the figure is undefined (a correlation of constants, only one class) are left out.
    """
    _same(truth, predicted)
    if len(truth) < MIN_ITEMS:
        return None
    found = [statistic(truth[rows], predicted[rows]) for rows in _draws(len(truth), seed, resamples)]
    return _middle(np.array(found))


def metric_difference(
    statistic: Statistic,
    truth: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES_OF_FIGURES,
    swap: bool = True,
) -> Difference:
    """The figure of `other` minus that of `one` on the same items: paired bootstrap, and swapped predictions.

    Swapping needs predictions of one scale, as ranks or classes have. `swap` = False is for those that have none (the
    numbers of clusters): the probability is then how rarely the bootstrap's difference has the other sign, doubled.
    """
    _same(truth, one)
    _same(truth, other)
    value = statistic(truth, other) - statistic(truth, one)
    draws = _draws(len(truth), seed, resamples)
    apart = np.array([statistic(truth[rows], other[rows]) - statistic(truth[rows], one[rows]) for rows in draws])
    interval = _middle(apart) if len(truth) >= MIN_ITEMS else None
    p = _swapped(statistic, truth, one, other, seed, resamples) if swap else _sign_change(apart)
    return Difference(float(value), interval, p)


def _swapped(
    statistic: Statistic, truth: np.ndarray, one: np.ndarray, other: np.ndarray, seed: int, resamples: int
) -> float:
    observed = abs(statistic(truth, other) - statistic(truth, one)) * (1 - 1e-12)
    generator = np.random.default_rng(seed)
    reached, held = 0, 0
    for _ in range(resamples):
        swap = (generator.random(len(truth)) < 0.5).reshape(-1, *(1,) * (one.ndim - 1))
        mixed = statistic(truth, np.where(swap, one, other)) - statistic(truth, np.where(swap, other, one))
        held += not np.isnan(mixed)
        reached += abs(mixed) >= observed
    return float((reached + 1) / (held + 1))


def _sign_change(apart: Values) -> float:
    held = apart[~np.isnan(apart)]
    fewer = min(int((held <= 0).sum()), int((held >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(held) + 1))


def group_interval(sums: Values, counts: Values, seed: int = 0) -> Interval | None:
    """The 95 % interval of Σ sums / Σ counts, both (G,); None below eight groups.

    Groups are drawn where items stand in groups and are not independent of each other, as tokens of a document.
    """
    if len(sums) < MIN_ITEMS:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(sums), (GROUP_RESAMPLES, len(sums)))
    return _middle(sums[drawn].sum(1) / counts[drawn].sum(1))


def group_difference(one: Values, other: Values, counts: Values, seed: int = 0) -> Interval | None:
    """The 95 % interval of the mean of `other` minus that of `one`, on the same groups (G,) with the same counts."""
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
    """How many resamples to draw at a time, so that memory stays bounded."""
    some = max(1, AT_ONCE // max(width, 1))
    for start in range(0, resamples, some):
        yield min(some, resamples - start)


def _middle(values: Values) -> Interval | None:
    held = values[~np.isnan(values)]
    if not len(held):
        return None
    low, high = np.quantile(held, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return float(low), float(high)


def _checked(each: Values) -> Values:
    values = np.asarray(each, np.float64)
    if values.ndim != 1 or not len(values):
        raise EmptyInput(f"Values of items are needed, one each; these have the shape {values.shape}.")
    if np.isnan(values).any():
        raise InputError(f"{int(np.isnan(values).sum())} of {len(values)} items have no value (NaN).")
    return values


def _paired(left: Values, right: Values) -> Values:
    if len(left) != len(right):
        raise InputError(f"{len(right)} and {len(left)} items: two systems are compared on the same ones.")
    return _checked(np.asarray(left, np.float64) - np.asarray(right, np.float64))


def _same(truth: np.ndarray, predicted: np.ndarray) -> None:
    if not len(truth):
        raise EmptyInput("There are no items.")
    if len(truth) != len(predicted):
        raise InputError(f"{len(truth)} items and {len(predicted)} predictions: one each is needed.")
