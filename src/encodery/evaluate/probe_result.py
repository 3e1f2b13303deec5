"""The result of a probe, and the comparison of the results of several models. Shapes: L layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from encodery.evaluate.metric_value import MetricValue


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """The result of a probe.

    Attributes:
        items: the number of evaluated items.
        layers: the metric of each layer, lowest first.
        baselines: the metric of baselines that do not use the model, by name.
        control: for each layer, the metric of the same probe on a random task, or empty. A probe that is good at both
            memorises.
    """

    main_metric: str
    items: int
    layers: list[MetricValue]
    baselines: dict[str, MetricValue]
    control: list[MetricValue]

    @property
    def best(self) -> int:
        """The layer with the highest metric."""
        return max(range(len(self.layers)), key=lambda layer: self.layers[layer].value)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a line for each baseline and layer, as plain values.

        Layers have their difference to the first baseline with interval and `p`. `selectivity` is the metric minus that
        of the control task.
        """
        lines = [{"layer": name, **_plain(metric, self.main_metric)} for name, metric in self.baselines.items()]
        baseline = next(iter(self.baselines.values()), None)
        for layer, metric in enumerate(self.layers):
            line = {"layer": str(layer), **_plain(metric, self.main_metric), **_difference(metric, baseline)}
            if self.control:
                line["selectivity"] = metric.value - self.control[layer].value
            lines.append(line)
        return lines


def compare_models(results: Mapping[str, ProbeResult]) -> list[dict[str, Any]]:
    """Return the best layer of each model on the same items, as plain values.

    Models after the first have the difference to its best layer, with interval and `p`.
    """
    first = next(iter(results.values()))
    lines = []
    for name, result in results.items():
        metric = result.layers[result.best]
        other = None if result is first else first.layers[first.best]
        line = {"model": name, "layer": str(result.best), **_plain(metric, result.main_metric)}
        lines.append({**line, **_difference(metric, other)})
    return lines


def _difference(metric: MetricValue, other: MetricValue | None) -> dict[str, Any]:
    difference = None if other is None else metric.difference_to(other)
    if difference is None:
        return {}
    low, high = difference.interval or (None, None)
    return {"difference": difference.value, "difference_low": low, "difference_high": high, "p": difference.p}


def _plain(metric: MetricValue, main: str) -> dict[str, Any]:
    low, high = metric.interval() or (None, None)
    return {main: metric.value, "low": low, "high": high}
