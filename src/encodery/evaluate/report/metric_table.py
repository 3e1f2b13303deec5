"""Lists every metric of a run with its value and its meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from encodery.base.markup import Html, el, table
from encodery.evaluate.report.number_format import duration, number, percentage

MetricRow = tuple[str, str, str, Callable[[Any], str]]
"""A name, its label, what it means, and how it is formatted."""
METRICS: tuple[MetricRow, ...] = (
    ("heldout_loss", "Held-out loss", "nats per masked token, with fixed masks on 15 % of the tokens", number),
    ("heldout_accuracy", "Masked accuracy", "fraction of masked tokens whose best prediction is correct", percentage),
    ("perplexity", "Perplexity", "exp of the held-out loss; depends on the tokenizer", number),
    ("bits_per_byte", "Bits per byte", "does not depend on the tokenizer", number),
    (
        "unigram_loss",
        "Loss of the unigram baseline",
        "token frequencies of the training text predicted everywhere",
        number,
    ),
    (
        "unigram_accuracy",
        "Accuracy of the unigram baseline",
        "the most frequent token predicted everywhere",
        percentage,
    ),
    (
        "train_loss",
        "Final training loss",
        "mean of the last 5 % of the steps, at the mask rate of the training",
        number,
    ),
    ("parameters", "Parameters", "tied weights are counted once", number),
    ("tokens", "Tokens trained on", "", number),
    ("steps", "Steps", "", number),
    ("tokens_per_s", "Tokens per second", "real tokens; there is no padding", number),
    ("mfu", "Model FLOPs utilisation", "relative to the measured peak of a square matrix product", percentage),
    (
        "data_fraction",
        "Time spent waiting for batches",
        "fraction of the time; reading, packing and masking",
        percentage,
    ),
    ("seconds", "Duration", "", duration),
    ("cpu_hours", "CPU-hours", "duration × threads × processes", number),
    ("gpu_hours", "GPU-hours", "duration × GPUs", number),
    ("energy", "Energy", "not estimated from durations", number),
)


OBJECTIVE_METRICS: tuple[MetricRow, ...] = (
    ("heldout_loss", "Held-out loss", "of the objective, on held-out text", number),
    ("heldout_accuracy", "Held-out accuracy", "fraction of the objective's predictions that are correct", percentage),
)
"""What is listed for an objective that is not judged by masked tokens, before its own metrics."""
OF_TOKENS = {"perplexity", "bits_per_byte", "unigram_loss", "unigram_accuracy"}


def metric_table(metrics: Mapping[str, Any]) -> Html:
    """Return the table of the metrics from `run_metrics`.

    Hours of a device that was not used are left out, and so is what only masked tokens have if the run has another
    objective, whose own metrics are listed.
    """
    rows = []
    for name, label, meaning, form in _listed(metrics):
        value = metrics[name]
        if value is None and name in ("cpu_hours", "gpu_hours") and (metrics["cpu_hours"] or metrics["gpu_hours"]):
            continue
        formatted = "unknown" if value is None and name == "energy" else form(value)
        rows.append((label, formatted, el("span", meaning, class_="faint small")))
    return table(("metric", "value", ""), rows, numeric=(1,))


def _listed(metrics: Mapping[str, Any]) -> list[MetricRow]:
    if metrics["heldout_loss"] is None or metrics["bits_per_byte"] is not None:
        return list(METRICS)
    known = {name for name, *_ in METRICS}
    own = [name for name in metrics if name.startswith("heldout_") and name not in known]
    rows = [(name, f"Held-out {name.removeprefix('heldout_')}", "reported by the objective", number) for name in own]
    others = [row for row in METRICS if row[0] not in OF_TOKENS and row[0] not in ("heldout_loss", "heldout_accuracy")]
    return [*OBJECTIVE_METRICS, *rows, *others]
