"""Schedules: the grammar, the values, and the refusals."""

from __future__ import annotations

import math

import pytest

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("0.15", {0: 0.15, 0.5: 0.15, 1: 0.15}),
        ("0.30 -> 0.15 linear", {0: 0.30, 0.5: 0.225, 1: 0.15}),
        ("0 -> 1 linear @ 5%; 1; 1 -> 0 sqrt @ 20%", {0: 0, 0.025: 0.5, 0.05: 1, 0.79: 1, 0.85: 0.5, 1: 0}),
        ("wsd(warmup=5%, decay=20%)", {0: 0, 0.025: 0.5, 0.5: 1, 0.85: 0.5, 1: 0}),
        ("cosine(warmup=0, floor=0.1)", {0: 1, 0.5: 0.55, 1: 0.1}),
        ("1 -> 0.01 exp", {0: 1, 0.5: 0.1, 1: 0.01}),
        ("64 @ 50%; 128", {0.49: 64, 0.51: 128}),
        ("one_cycle", {0: 0.04, 0.3: 1, 1: 0}),
    ],
)
def test_values(text: str, points: dict[float, float]) -> None:
    schedule = Schedule.parse(text)
    for progress, value in points.items():
        assert schedule(progress) == pytest.approx(value, abs=1e-9), progress


def test_progress_is_clamped_and_numbers_are_schedules() -> None:
    assert Schedule.parse("1 -> 0")(2.0) == 0
    assert Schedule.parse("1 -> 0")(-1.0) == 1
    assert Schedule.parse(3)(0.4) == 3
    assert Schedule.parse("cosine").maximum == 1


def test_every_shape_is_monotonic_and_meets_its_ends() -> None:
    for shape in ("linear", "cosine", "sqrt", "exp"):
        schedule = Schedule.parse(f"2 -> 1 {shape}")
        values = [schedule(i / 50) for i in range(51)]
        assert values[0] == 2
        assert math.isclose(values[-1], 1)
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.3 -> 0.1 linera", "Did you mean 'linear'"),
        ("cosin", "Did you mean 'cosine'"),
        ("wsd(warmpu=5%)", "Did you mean 'warmup'"),
        ("1 @ 60%; 0 @ 60%", "percentages add up to 120%"),
        ("1 -> 0 exp", "of the same sign"),
        ("", "cannot parse"),
        ("wsd(warmup=60%, decay=60%)", "within the run"),
    ],
)
def test_errors_name_the_cause(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Schedule.parse(text)
