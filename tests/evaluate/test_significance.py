"""Intervals and probabilities against scipy, and against what they must mean."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from encodery.base.errors import EmptyInput, InputError
from encodery.evaluate.significance import (
    mean_difference,
    mean_interval,
    metric_difference,
    metric_interval,
    sign_flip,
)


def spearman(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(scipy.stats.spearmanr(truth, predicted).statistic)


def test_sign_flips_of_few_items_are_exact() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 5, 9, 12):
        apart = rng.normal(0.3, 1, count)
        theirs = scipy.stats.permutation_test((apart, np.zeros(count)), lambda a, b: (a - b).mean(), n_resamples=np.inf,
                                              permutation_type="samples")  # fmt: skip
        assert sign_flip(apart) == pytest.approx(float(theirs.pvalue))
    assert sign_flip(np.zeros(5)) == 1.0
    assert sign_flip(np.ones(10)) == pytest.approx(2 / 2**10)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2])
def test_sign_flips_of_many_items_agree_with_the_t_test(shift: float) -> None:
    apart = np.random.default_rng(1).normal(shift, 1, 301)
    assert sign_flip(apart) == pytest.approx(float(scipy.stats.ttest_1samp(apart, 0).pvalue), abs=0.02)


def test_chance_is_called_a_difference_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(2)
    p_values = [sign_flip(rng.normal(0, 1, 40), seed=trial, resamples=500) for trial in range(300)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_the_bootstrap_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).exponential(1, 200)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert mean_interval(values) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=1)
    assert mean_interval(values[:7]) is None


def test_memory_stays_bounded_without_changing_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = np.random.default_rng(4).normal(0.1, 1, 77)
    whole = mean_interval(apart), sign_flip(apart)
    monkeypatch.setattr("encodery.evaluate.significance.BLOCK_NUMBERS", 1000)
    assert mean_interval(apart) == whole[0]
    assert sign_flip(apart) == pytest.approx(whole[1], abs=0.02)


def test_pairs_see_what_two_intervals_would_not() -> None:
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0, 1, 300)
    one, other = difficulty + rng.normal(0, 0.1, 300), difficulty + 0.05 + rng.normal(0, 0.1, 300)
    difference = mean_difference(one, other)
    assert difference.value == pytest.approx((other - one).mean())
    assert difference.interval is not None
    assert 0 < difference.interval[0] < difference.value < difference.interval[1]
    assert difference.p < 0.001
    low, high = mean_interval(one)
    assert high - low > 3 * (difference.interval[1] - difference.interval[0])
    assert mean_difference(other, one).value == -difference.value


def test_figures_that_are_no_means() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(0, 1, 150)
    good, bad = truth + rng.normal(0, 0.5, 150), truth + rng.normal(0, 3, 150)
    theirs = scipy.stats.bootstrap(
        (truth, good), spearman, paired=True, vectorized=False, n_resamples=1000, method="percentile", rng=0
    )  # fmt: skip
    assert metric_interval(spearman, truth, good) == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)
    apart = metric_difference(spearman, truth, bad, good, resamples=300)
    assert apart.value == pytest.approx(spearman(truth, good) - spearman(truth, bad))
    assert apart.interval is not None
    assert apart.interval[0] > 0
    assert apart.p <= 0.01
    assert metric_difference(spearman, truth, good, good, resamples=50).p == 1.0


def test_swaps_of_a_mean_are_its_sign_flips() -> None:
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 3, 60)
    one, other = (np.where(rng.random(60) < share, truth, -1) for share in (0.6, 0.75))

    def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
        return float((truth == predicted).mean())

    swapped = metric_difference(accuracy, truth, one, other, resamples=4000)
    flipped = mean_difference((one == truth).astype(float), (other == truth).astype(float))
    assert swapped.value == pytest.approx(flipped.value)
    assert swapped.p == pytest.approx(flipped.p, abs=0.03)
    assert swapped.interval == pytest.approx(flipped.interval, abs=0.02)


def test_invalid_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="4 and 3 items"):
        mean_difference(np.ones(4), np.ones(3))
    with pytest.raises(EmptyInput):
        mean_interval(np.ones(0))
    with pytest.raises(InputError, match="1 of 9 items have no value"):
        mean_interval(np.array([*range(8), np.nan]))
    with pytest.raises(InputError, match="4 items but 3 predictions"):
        metric_interval(spearman, np.ones(4), np.ones(3))
