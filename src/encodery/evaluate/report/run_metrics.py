"""Collects the metrics of a run as one table of plain values."""

from __future__ import annotations

import math
from typing import Any

from encodery.evaluate.report.run_facts import RunFacts


def run_metrics(facts: RunFacts) -> dict[str, Any]:
    """Return every metric by name; None means "not recorded". Energy is never estimated from times."""
    loss, elapsed = facts.metric("heldout_loss"), facts.metric("seconds", "elapsed")
    unigram = facts.unigram if facts.predicts_tokens else None
    return {
        "heldout_loss": loss,
        "heldout_accuracy": facts.metric("heldout_accuracy"),
        "perplexity": None if loss is None or not facts.predicts_tokens else math.exp(min(loss, 100.0)),
        "bits_per_byte": facts.metric("bits_per_byte"),
        "unigram_loss": unigram and unigram.loss,
        "unigram_accuracy": unigram and unigram.accuracy,
        **{f"heldout_{name}": value for name, value in facts.objective_metrics.items()},
        "train_loss": final_train_loss(facts),
        "tokens": facts.metric("tokens"),
        "steps": facts.metric("steps", "step"),
        "tokens_per_s": facts.metric("tokens_per_s"),
        "mfu": facts.metric("mfu"),
        "data_fraction": facts.metric("data_fraction"),
        "parameters": facts.metric("parameters"),
        "seconds": elapsed,
        **_device_hours(facts, elapsed),
        "energy": facts.metric("energy"),
    }


def final_train_loss(facts: RunFacts) -> float | None:
    """Return the mean training loss of the last 5 % of the steps; None if no loss is finite."""
    final = [float(line["loss"]) for line in facts.steps[-max(1, len(facts.steps) // 20) :]]
    finite = [loss for loss in final if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else None


def _device_hours(facts: RunFacts, elapsed: float | None) -> dict[str, float | None]:
    """Return `cpu_hours` and `gpu_hours`; only that of the device in use has a value, if the machine was recorded."""
    machine = facts.metrics.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    processes = facts.metrics.get("processes") or 1
    used = "gpu_hours" if machine.get("kind") == "cuda" else "cpu_hours"
    units = 1 if used == "gpu_hours" else machine.get("threads")
    hours = elapsed * units * processes / 3600 if elapsed and units else None
    return {"cpu_hours": None, "gpu_hours": None, used: hours}
