"""Checks of probes. Each takes a probe, a file of its format with a few hundred annotations, and a model."""

from __future__ import annotations

from pathlib import Path

from encodery.base.settings import decode, encode
from encodery.evaluate.probe_result import compare_models
from encodery.evaluate.probes import Probe
from encodery.model.load import LoadedModel


def check_settings_round_trip(part: Probe, data: Path, loaded: LoadedModel) -> None:
    """The part is what its settings decode to."""
    assert decode(Probe, encode(part)) == part


def check_a_metric_for_each_layer(part: Probe, data: Path, loaded: LoadedModel) -> None:
    """Embeddings and every block have a metric between 0 and 1, with a control task and baselines."""
    result = part.measure(data, loaded)
    count = loaded.model.settings.depth + 1
    assert len(result.layers) == len(result.control) == count, f"{len(result.layers)} layers, not {count}"
    for metric in (*result.layers, *result.control, *result.baselines.values()):
        assert 0 <= metric.value <= 1, f"a metric is {metric.value}"
    assert len(result.to_dicts()) == len(result.layers) + len(result.baselines)


def check_repeatable(part: Probe, data: Path, loaded: LoadedModel) -> None:
    """A second measurement gives the same metrics, whose difference is 0."""
    first, second = part.measure(data, loaded), part.measure(data, loaded)
    assert [metric.value for metric in first.layers] == [metric.value for metric in second.layers]
    one, same = compare_models({"first": first, "second": second})
    assert "p" not in one
    assert (same["layer"], same["difference"], same["p"]) == (str(first.best), 0, 1)


def check_differences_to_the_baseline(part: Probe, data: Path, loaded: LoadedModel) -> None:
    """Every layer has a difference to the first baseline, inside its interval, and a p."""
    result = part.measure(data, loaded)
    assert result.baselines, "there is no baseline"
    for line in result.to_dicts()[len(result.baselines) :]:
        assert 0 < line["p"] <= 1
        assert line["difference_low"] <= line["difference"] <= line["difference_high"]
