"""Lists every metric of a run with its value and its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encodery.base.markup import Html, el, table
from encodery.evaluate.report.number_format import duration, number, percentage

METRICS = (
    (
        "heldout_loss",
        "Held-out loss",
        "of the objective; of masked tokens in nats, with fixed masks on 15 % of the tokens",
        number,
    ),
    (
        "heldout_accuracy",
        "Held-out accuracy",
        "fraction of the predictions that are correct, such as masked tokens",
        percentage,
    ),
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


def metric_table(metrics: Mapping[str, Any]) -> Html:
    """Return the table of the metrics from `run_metrics`; hours of a device that was not used are left out."""
    rows = []
    for name, label, meaning, form in METRICS:
        value = metrics[name]
        if value is None and name in ("cpu_hours", "gpu_hours") and (metrics["cpu_hours"] or metrics["gpu_hours"]):
            continue
        formatted = "unknown" if value is None and name == "energy" else form(value)
        rows.append((label, formatted, el("span", meaning, class_="faint small")))
    return table(("metric", "value", ""), rows, numeric=(1,))
