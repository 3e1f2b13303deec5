"""Probes: what the layers of a frozen encoder know, by how well something simple reads it off them.

Shapes: N items, L layers (the embeddings' output and each block's), H width.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encodery.base.parts import Part
from encodery.evaluate.suites import MetricValue

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """`layers`: the figure of each layer, lowest first; `baselines`: what can be had without the model, by name.

    `control`: for each layer, how well the same probe learns a task that no encoder can know (empty if not asked): a
    probe that is good at both learns by heart. `items` were judged.
    """

    main_metric: str
    items: int
    layers: list[MetricValue]
    baselines: dict[str, MetricValue]
    control: list[MetricValue]

    @property
    def best(self) -> int:
        """The layer with the highest figure."""
        return max(range(len(self.layers)), key=lambda layer: self.layers[layer].value)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A line for each baseline and layer, as plain values: layers with their difference to the first baseline, its
        interval and `p`; `selectivity` is the figure minus the control's."""
        lines = [{"layer": name, **_plain(figure, self.main_metric)} for name, figure in self.baselines.items()]
        without = next(iter(self.baselines.values()), None)
        for layer, figure in enumerate(self.layers):
            line = {"layer": str(layer), **_plain(figure, self.main_metric), **_apart(figure, without)}
            if self.control:
                line["selectivity"] = figure.value - self.control[layer].value
            lines.append(line)
        return lines


class Probe(Part):
    """Reads one kind of knowledge off each layer."""

    @abc.abstractmethod
    def measure(self, data: Path, loaded: LoadedModel) -> ProbeResult:
        """On labelled data of one's own. Raises `InputError` naming file and line for what it cannot be made of."""


def compare_models(found: Mapping[str, ProbeResult]) -> list[dict[str, Any]]:
    """The best layer of each model on the same items, as plain values: all but the first with the difference to the
    first one's, its interval and `p`."""
    first = next(iter(found.values()))
    lines = []
    for name, probed in found.items():
        figure = probed.layers[probed.best]
        other = None if probed is first else first.layers[first.best]
        lines.append(
            {"model": name, "layer": str(probed.best), **_plain(figure, probed.main_metric), **_apart(figure, other)}
        )
    return lines


def _apart(figure: MetricValue, other: MetricValue | None) -> dict[str, Any]:
    found = None if other is None else figure.difference_to(other)
    if found is None:
        return {}
    low, high = found.interval or (None, None)
    return {"difference": found.value, "difference_low": low, "difference_high": high, "p": found.p}


def _plain(figure: MetricValue, main: str) -> dict[str, Any]:
    low, high = figure.interval() or (None, None)
    return {main: figure.value, "low": low, "high": high}
