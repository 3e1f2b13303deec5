"""The figures of a run as one table of plain values, and its curves as rows: the page for other programs."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from encodery.evaluate.report.run_facts import RunFacts

CURVES = (
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


def run_metrics(facts: RunFacts) -> dict[str, Any]:
    """Every figure by name; None is "not recorded". Energy is never guessed from times."""
    loss, elapsed = facts.metric("heldout_loss"), facts.metric("seconds", "elapsed")
    guess = facts.unigram
    return {
        "heldout_loss": loss,
        "heldout_accuracy": facts.metric("heldout_accuracy"),
        "perplexity": None if loss is None else math.exp(min(loss, 100.0)),
        "bits_per_byte": facts.metric("bits_per_byte"),
        "unigram_loss": guess and guess.loss,
        "unigram_accuracy": guess and guess.accuracy,
        "train_loss": late_loss(facts),
        "tokens": facts.metric("tokens"),
        "steps": facts.metric("steps", "step"),
        "tokens_per_s": facts.metric("tokens_per_s"),
        "mfu": facts.metric("mfu"),
        "data_fraction": facts.metric("data_fraction"),
        "parameters": facts.metric("parameters"),
        "seconds": elapsed,
        **_cost(facts, elapsed),
        "energy": facts.metric("energy"),
    }


def late_loss(facts: RunFacts) -> float | None:
    """Mean training loss of the last twentieth of the steps."""
    late = [float(line["loss"]) for line in facts.steps[-max(1, len(facts.steps) // 20) :]]
    finite = [loss for loss in late if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None


def _cost(facts: RunFacts, elapsed: float | None) -> dict[str, float | None]:
    """Hours of the device that was used, where the machine was recorded."""
    machine = facts.metrics.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    processes = facts.metrics.get("processes") or 1
    used = "gpu_hours" if machine.get("kind") == "cuda" else "cpu_hours"
    units = 1 if used == "gpu_hours" else machine.get("threads")
    hours = elapsed * units * processes / 3600 if elapsed and units else None
    return {"cpu_hours": None, "gpu_hours": None, used: hours}


def curves_csv(facts: RunFacts) -> str:
    """The log as CSV: one row for each line that has a loss or a held-out loss, in the order of steps."""
    rows = sorted(facts.steps + [s for s in facts.scores if "loss" not in s], key=lambda line: line.get("step", 0))
    used = [name for name in CURVES if any(name in row for row in rows)]
    out = io.StringIO()
    writer = csv.DictWriter(out, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
