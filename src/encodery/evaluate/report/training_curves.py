"""Sections on the training: tiles, figures, curves, recipe, machine."""

from __future__ import annotations

import json
from typing import Any

from encodery.base.markup import Html, details, el, join, pairs, table, text
from encodery.evaluate.report.charts import Point, Series, chart, smoothed
from encodery.evaluate.report.number_format import MISSING, duration, number, share
from encodery.evaluate.report.run_facts import Line, RunFacts

MANY_STEPS = 100
TILES = (
    ("heldout_accuracy", "hidden words guessed right", share),
    ("perplexity", "perplexity, held-out", number),
    ("bits_per_byte", "bits per byte, held-out", number),
    ("tokens_per_s", "tokens a second", number),
    ("mfu", "of the matrix peak", share),
    ("parameters", "parameters", number),
)
MEANINGS = (
    ("heldout_loss", "Held-out loss", "nats a hidden token, 15 % hidden by fixed masks", number),
    ("heldout_accuracy", "Masked accuracy", "hidden tokens whose best guess is right", share),
    ("perplexity", "Perplexity", "exp of the held-out loss; depends on the tokenizer", number),
    ("bits_per_byte", "Bits per byte", "does not depend on the tokenizer", number),
    ("unigram_loss", "Loss by frequency alone", "the commonest tokens guessed everywhere", number),
    ("unigram_accuracy", "Accuracy by frequency alone", "", share),
    ("train_loss", "Training loss at the end", "at the training's own mask rate", number),
    ("parameters", "Parameters", "tied weights once", number),
    ("tokens", "Tokens seen", "", number),
    ("steps", "Steps", "", number),
    ("tokens_per_s", "Tokens a second", "real tokens: there is no padding", number),
    ("mfu", "Share of the matrix peak", "model FLOPs against a measured square matrix product", share),
    (
        "data_fraction",
        "Share of the time spent on batches",
        "reading, packing, masking; what the step waited for",
        share,
    ),
    ("seconds", "Time", "", duration),
    ("cpu_hours", "CPU-hours", "time × threads × processes", number),
    ("gpu_hours", "GPU-hours", "time × cards", number),
    ("energy", "Energy", "not estimated from times", number),
)


def tiles(found: dict[str, Any]) -> Html:
    """The figures one asks for first."""
    shown = []
    for name, label, form in TILES:
        missing = found[name] is None
        value = form(found[name])
        shown.append(el("div", el("b", value), el("span", label), class_="tile none" if missing else "tile"))
    return el("div", *shown, class_="tiles")


def metric_table(found: dict[str, Any]) -> Html:
    """Every figure with what it means; hours of a device that was not used are left out."""
    rows = []
    for name, label, meaning, form in MEANINGS:
        value = found[name]
        if value is None and name in ("cpu_hours", "gpu_hours") and (found["cpu_hours"] or found["gpu_hours"]):
            continue
        shown = "unknown" if value is None and name == "energy" else form(value)
        rows.append((label, shown, el("span", meaning, class_="faint small")))
    return table(("figure", "value", ""), rows, numeric=(1,))


def curve_grid(facts: RunFacts) -> Html:
    """Loss, accuracy, learning rate, mask rate, speed and gradients over tokens (steps where tokens are not logged)."""
    x = "tokens" if any("tokens" in line for line in facts.steps + facts.scores) else "step"

    def along(lines: list[Line], name: str) -> list[Point]:
        return [(float(line[x]), float(line[name])) for line in lines if _is_number(line, x) and _is_number(line, name)]

    raw = along(facts.steps, "loss")
    losses = [Series("each step", raw, "s3")] if len(raw) >= MANY_STEPS else []
    losses.append(Series("training", smoothed(raw), "s1"))
    if held := along(facts.scores, "heldout_loss"):
        losses.append(Series("held-out", held, "s2", dots=True))
    accuracy = [Series("accuracy", along(facts.scores, "heldout_accuracy"), "s2", dots=True)]
    charts = [chart("Loss, nats", losses, x), chart("Held-out masked accuracy", accuracy, x, from_zero=True)]
    for name, title in (
        ("lr", "Learning rate"),
        ("mask_rate", "Mask rate"),
        ("tokens_per_s", "Tokens a second"),
        ("grad_norm", "Norm of the gradient, before clipping"),
    ):
        charts.append(
            chart(title, [Series(name, along(facts.steps, name))], x, from_zero=True, cut=name == "grad_norm")
        )
    return el("div", *charts, class_="charts")


def recipe(facts: RunFacts) -> Html:
    """The whole recipe, folded."""
    if not facts.recipe:
        return el("p", "Not recorded.", class_="faint")
    whole = json.dumps(facts.recipe, indent=2, ensure_ascii=False)
    brief = [(name, _brief(value)) for name, value in facts.settings.items() if value not in ({}, [], None, "")]
    return join((pairs(brief), details("Every setting", el("pre", el("code", whole)))))


def _brief(value: object) -> Html:
    """A table of settings in one line: the part's name, then single values."""
    if not isinstance(value, dict):
        return text(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value)
    shown = []
    for key, item in value.items():
        if isinstance(item, dict):
            item = item.get("is")
        if item is not None and not isinstance(item, list):
            shown.append(f"{item}" if key == "is" else f"{key} {item}")
    return text(" · ".join(shown) or "…")


def machine(facts: RunFacts) -> Html:
    """The machine and the versions, as the run recorded them."""
    found = facts.metrics.get("machine")
    rows: list[tuple[object, object]] = []
    if isinstance(found, dict):
        rows = [(key, f"{value / 2**30:.1f} GiB" if key == "memory" else value) for key, value in found.items()]
    if facts.artifact is not None:
        rows += [("encodery", facts.artifact.manifest.version), ("finished", facts.artifact.manifest.created)]
    return pairs(rows) if rows else el("p", MISSING.capitalize() + ".", class_="faint")


def _is_number(line: Line, name: str) -> bool:
    return isinstance(line.get(name), int | float) and not isinstance(line[name], bool)
