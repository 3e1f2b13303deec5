"""Shows the training curves of a run as charts, and writes them as CSV."""

from __future__ import annotations

import csv
import io

from encodery.base.markup import Html, el
from encodery.evaluate.report.charts import Point, Series, chart, smooth
from encodery.evaluate.report.run_facts import Line, RunFacts

MIN_STEPS_TO_SMOOTH = 100
"""Steps from which the loss of each step is drawn behind the smoothed loss."""
COLUMNS = (
    "step",
    "tokens",
    "elapsed",
    "loss",
    "heldout_loss",
    "heldout_accuracy",
    "bits_per_byte",
    "lr",
    "mask_rate",
    "tokens_per_s",
    "grad_norm",
)


def training_curves(facts: RunFacts) -> Html:
    """Return charts of loss, accuracy, learning rate, mask rate, speed and gradient norm.

    The x axis shows tokens, or steps if the log has no tokens.
    """
    x = "tokens" if any("tokens" in line for line in facts.steps + facts.evaluations) else "step"

    def curve(lines: list[Line], name: str) -> list[Point]:
        return [(float(line[x]), float(line[name])) for line in lines if _is_number(line, x) and _is_number(line, name)]

    raw = curve(facts.steps, "loss")
    losses = [Series("each step", raw, "s3")] if len(raw) >= MIN_STEPS_TO_SMOOTH else []
    losses.append(Series("training", smooth(raw), "s1"))
    if heldout := curve(facts.evaluations, "heldout_loss"):
        losses.append(Series("held-out", heldout, "s2", dots=True))
    accuracy = [Series("accuracy", curve(facts.evaluations, "heldout_accuracy"), "s2", dots=True)]
    title = "Held-out accuracy" if heldout and not facts.predicts_tokens else "Held-out masked accuracy"
    charts = [chart("Loss, nats", losses, x), chart(title, accuracy, x, from_zero=True)]
    for name, title in (
        ("lr", "Learning rate"),
        ("mask_rate", "Mask rate"),
        ("tokens_per_s", "Tokens per second"),
        ("grad_norm", "Gradient norm, before clipping"),
    ):
        series = Series(name, curve(facts.steps, name))
        charts.append(chart(title, [series], x, from_zero=True, clip_peaks=name == "grad_norm"))
    return el("div", *charts, class_="charts")


def curves_csv(facts: RunFacts) -> str:
    """Return the log as CSV: one row per line with a training or held-out loss, in order of steps."""
    only_evaluated = [line for line in facts.evaluations if "loss" not in line]
    rows = sorted(facts.steps + only_evaluated, key=lambda line: line.get("step", 0))
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _is_number(line: Line, name: str) -> bool:
    return isinstance(line.get(name), int | float) and not isinstance(line[name], bool)
