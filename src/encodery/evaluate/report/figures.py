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
    loss, elapsed = facts.figure("heldout_loss"), facts.figure("elapsed", "seconds")
    guess = facts.unigram
    return {
        "heldout_loss": loss,
        "heldout_accuracy": facts.figure("heldout_accuracy"),
        "perplexity": None if loss is None else math.exp(loss),
        "bits_per_byte": facts.figure("bits_per_byte"),
        "unigram_loss": guess and guess.loss,
        "unigram_accuracy": guess and guess.accuracy,
        "train_loss": facts.figure("loss"),
        "tokens": facts.figure("tokens"),
        "steps": facts.figure("step", "steps"),
        "tokens_per_s": facts.figure("tokens_per_s"),
        "peak_share": facts.figure("peak_share"),
        "parameters": facts.figure("parameters"),
        "seconds": elapsed,
        **_cost(facts, elapsed),
        "energy": facts.figure("energy"),
    }


def _cost(facts: Facts, elapsed: float | None) -> dict[str, float | None]:
    """Hours of the device that was used, where the machine was recorded."""
    machine = facts.figures.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    cards = machine.get("cards", machine.get("gpus"))
    threads = machine.get("threads")
    return {
        "cpu_hours": elapsed * threads / 3600 if elapsed and threads and not cards else None,
        "gpu_hours": elapsed * cards / 3600 if elapsed and cards else None,
    }


def curves(facts: Facts) -> str:
    """The log as CSV: one row for each line that has a loss or a held-out loss, in the order of steps."""
    rows = sorted(facts.steps + [s for s in facts.scores if "loss" not in s], key=lambda line: line.get("step", 0))
    used = [name for name in CURVES if any(name in row for row in rows)]
    out = io.StringIO()
    writer = csv.DictWriter(out, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
