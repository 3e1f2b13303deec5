"""The computed permutation is one, looks like chance, and never changes."""

from __future__ import annotations

import numpy as np
import pytest

from encodery.tokens.shuffle import hash_under_key, permute, scale_hashes


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 4097, 65536, 99991])
@pytest.mark.parametrize("key", [0, 1, 2**62])
def test_a_permutation_has_every_number_once(count: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(count), count, key)), np.arange(count))


def test_any_part_can_be_computed_alone() -> None:
    whole = permute(np.arange(100_000), 100_000, 5)
    assert np.array_equal(permute(np.arange(40_000, 40_100), 100_000, 5), whole[40_000:40_100])
    huge = permute(np.arange(1000), 10**12, 5)
    assert len(set(huge.tolist())) == 1000
    assert huge.max() > 9 * 10**11


@pytest.mark.parametrize("count", [1000, 30_011])
def test_neighbours_are_scattered_and_keys_differ(count: int) -> None:
    orders = np.stack([permute(np.arange(count), count, key) for key in range(20)])
    correlations = np.corrcoef(np.vstack([np.arange(count), orders]))
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5 / np.sqrt(count)
    steps = np.abs(np.diff(orders, axis=1)) / count
    assert abs(steps.mean() - 1 / 3) < 0.01
    ends = np.bincount(orders[:, :50].ravel() * 10 // count, minlength=10)
    assert ends.min() > 50


def test_the_order_does_not_change_between_versions() -> None:
    assert permute(np.arange(8), 100, 7).tolist() == [17, 58, 55, 63, 72, 99, 42, 7]
    assert hash_under_key(np.arange(2), 1).tolist() == [6238072747940578789, 10451216379200822465]


def test_scaled_hashes_are_uniform_and_below_the_bound() -> None:
    numbers = scale_hashes(hash_under_key(np.arange(60_000), 3), 6)
    assert np.abs(np.bincount(numbers, minlength=6) - 10_000).max() < 500
    limits = np.array([1, 5, 2**31])
    assert (scale_hashes(hash_under_key(np.arange(3), 3), limits) < limits).all()
