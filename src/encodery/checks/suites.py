"""Checks of suites. Each takes a suite, a file or folder of its format with at least 8 items, and a system that it can
evaluate."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from encodery.base.errors import UserError
from encodery.base.settings import decode, encode
from encodery.checks import raised_message
from encodery.evaluate.compare import Result, measure
from encodery.evaluate.suites import Suite
from encodery.evaluate.systems import System

BROKEN = '{"text": \n'
MESSAGES = ("no such file", "line 1", "qrels")


def evaluate(part: Suite, data: Path, system: System) -> Result:
    """Return the result of a newly opened system."""
    return measure(part, part.read(data), system.open(), "suite")


def check_settings_round_trip(part: Suite, data: Path, system: System) -> None:
    """The part is what its settings decode to."""
    assert decode(Suite, encode(part)) == part


def check_items(part: Suite, data: Path, system: System) -> None:
    """The items have a length, which is the number of items of the result."""
    items = part.read(data)
    assert len(items) >= 8, f"{len(items)} items were read"
    assert measure(part, items, system.open(), "suite").items == len(items)


def check_metrics(part: Suite, data: Path, system: System) -> None:
    """The main metric comes first; every metric is finite, and the mean of its items if it has any."""
    result = evaluate(part, data, system)
    assert next(iter(result.metrics)) == result.main_metric == (part.main_metric or result.main_metric)
    for name, metric in result.metrics.items():
        assert np.isfinite(metric.value), f"{name} is {metric.value}"
        if metric.per_item is not None:
            np.testing.assert_allclose(metric.value, metric.per_item.mean(), rtol=1e-6, err_msg=name)


def check_significance(part: Suite, data: Path, system: System) -> None:
    """The main metric has an interval that contains it, and no difference to itself."""
    result = evaluate(part, data, system)
    main = result.metrics[result.main_metric]
    assert main.per_item is None or len(main.per_item) == result.items
    low, high = main.interval() or (np.nan, np.nan)
    assert low <= high, "the main metric has no interval"
    difference = main.difference_to(main)
    assert difference is not None, "the main metric cannot be compared"
    assert (difference.value, difference.p) == (0.0, 1.0)


def check_counters(part: Suite, data: Path, system: System) -> None:
    """The texts and tokens of the evaluation are counted, and nothing was padded or truncated."""
    counters = evaluate(part, data, system).counters
    assert counters.texts > 0, "no texts were counted"
    assert counters.tokens, "no tokens were counted"
    assert (counters.padding, counters.dropped) == (0, 0)


def check_repeatable(part: Suite, data: Path, system: System) -> None:
    """A second evaluation gives the same metrics."""
    first, second = (evaluate(part, data, system).metrics for _ in range(2))
    assert {name: metric.value for name, metric in first.items()} == {
        name: metric.value for name, metric in second.items()
    }


def check_unusable_data(part: Suite, data: Path, system: System) -> None:
    """Data that does not exist, or is not of the format, raises a `UserError` that says what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        missing, broken = Path(folder) / "missing.jsonl", Path(folder) / "broken.jsonl"
        assert "no such file" in raised_message(UserError, functools.partial(part.read, missing))
        broken.write_text(BROKEN, encoding="utf-8")
        error = raised_message(UserError, functools.partial(part.read, broken))
    assert any(message in error for message in MESSAGES), f"'{error}' does not say what is wrong"
