"""Suites: evaluations on data in a folder or file; nothing is downloaded.

A suite reads its items once and evaluates any system on them. A metric keeps the values of the items that it was
computed from, so that it has an interval and can be compared in pairs. Shapes: N items.
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

from encodery.base.parts import Part
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.systems import OpenSystem


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
