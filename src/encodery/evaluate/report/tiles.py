"""Shows the most important metrics of a run as tiles at the top of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from encodery.base.markup import Html, el
from encodery.evaluate.report.number_format import MISSING, number, percentage

PRETRAINING = (
    ("heldout_accuracy", "masked tokens predicted correctly, held-out", percentage),
    ("perplexity", "perplexity, held-out", number),
    ("bits_per_byte", "bits per byte, held-out", number),
    ("tokens_per_s", "tokens per second", number),
    ("mfu", "of the peak of a matrix product", percentage),
    ("parameters", "parameters", number),
)


OBJECTIVE = (
    ("heldout_loss", "loss of the objective, held-out", number),
    ("heldout_accuracy", "accuracy of the objective, held-out", percentage),
    *PRETRAINING[3:],
)
"""The tiles of an objective that is not judged by masked tokens."""


def tiles(values: Iterable[tuple[str, str]]) -> Html:
    """Return a row of tiles, each a formatted value with its label."""
    return el(
        "div",
        *(
            el("div", el("b", value), el("span", label), class_="tile none" if value == MISSING else "tile")
            for value, label in values
        ),
        class_="tiles",
    )


def pretraining_tiles(metrics: Mapping[str, Any]) -> Html:
    """Return the tiles of a pretraining run, from `run_metrics`."""
    other = metrics.get("heldout_loss") is not None and metrics["bits_per_byte"] is None
    return tiles((form(metrics[name]), label) for name, label, form in (OBJECTIVE if other else PRETRAINING))
