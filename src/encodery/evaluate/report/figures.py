"""The figures of a run as one table of plain values, and its curves as rows: the page for other programs."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from encodery.evaluate.report.facts import Facts

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


def figures(facts: Facts) -> dict[str, Any]:
    """Every figure by name; None is "not recorded". Energy is never guessed from times."""
    loss, elapsed = facts.figure("heldout_loss"), facts.figure("seconds", "elapsed")
    guess = facts.unigram
    return {
        "heldout_loss": loss,
        "heldout_accuracy": facts.figure("heldout_accuracy"),
        "perplexity": None if loss is None else math.exp(min(loss, 100.0)),
        "bits_per_byte": facts.figure("bits_per_byte"),
        "unigram_loss": guess and guess.loss,
        "unigram_accuracy": guess and guess.accuracy,
        "train_loss": late_loss(facts),
        "tokens": facts.figure("tokens"),
        "steps": facts.figure("steps", "step"),
        "tokens_per_s": facts.figure("tokens_per_s"),
        "peak_share": facts.figure("peak_share"),
        "data_share": facts.figure("data_share"),
        "parameters": facts.figure("parameters"),
        "seconds": elapsed,
        **_cost(facts, elapsed),
        "energy": facts.figure("energy"),
    }


def late_loss(facts: Facts) -> float | None:
    """Mean training loss of the last twentieth of the steps."""
    late = [float(line["loss"]) for line in facts.steps[-max(1, len(facts.steps) // 20) :]]
    finite = [loss for loss in late if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None


def _cost(facts: Facts, elapsed: float | None) -> dict[str, float | None]:
    """Hours of the device that was used, where the machine was recorded."""
    machine = facts.figures.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    processes = facts.figures.get("processes") or 1
    used = "gpu_hours" if machine.get("kind") == "cuda" else "cpu_hours"
    units = 1 if used == "gpu_hours" else machine.get("threads")
    hours = elapsed * units * processes / 3600 if elapsed and units else None
    return {"cpu_hours": None, "gpu_hours": None, used: hours}


def curves(facts: Facts) -> str:
    """The log as CSV: one row for each line that has a loss or a held-out loss, in the order of steps."""
    rows = sorted(facts.steps + [s for s in facts.scores if "loss" not in s], key=lambda line: line.get("step", 0))
    used = [name for name in CURVES if any(name in row for row in rows)]
    out = io.StringIO()
    writer = csv.DictWriter(out, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
