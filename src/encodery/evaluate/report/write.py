"""Writes the report of a run: one HTML file without script or external request, figures and curves beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.artifact import atomic_write
from encodery.base.errors import EncoderyError, InputError
from encodery.base.markup import el
from encodery.evaluate.report import examples, predictions, provenance, training_curves
from encodery.evaluate.report.draw_examples import ModelExamples, draw_examples
from encodery.evaluate.report.page import page as framed
from encodery.evaluate.report.run_facts import RunFacts, read_run
from encodery.evaluate.report.run_metrics import curves_csv, run_metrics
from encodery.evaluate.report.summary import summary


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    page: Path
    metrics: Path
    curves: Path


def write_report(run: str | Path, out: str | Path | None = None, samples: bool = True) -> ReportFiles:
    """The report of a run folder, by default `report.html` in it. `samples` runs the model on held-out text.

    Beside `NAME.html` lie `NAME.figures.json` and `NAME.curves.csv`. Raises `InputError` for a folder that is no run
    and a file that is no .html.
    """
    page = Path(out) if out is not None else Path(run) / "report.html"
    if page.suffix not in (".html", ".htm"):
        raise InputError(f"{page}: the report is an HTML file; give a name that ends in .html.")
    facts = read_run(run)
    found = run_metrics(facts)
    drawn, why = _drawn(facts) if samples else (None, "They were left out.")
    page.parent.mkdir(parents=True, exist_ok=True)
    written = ReportFiles(page, page.with_suffix(".figures.json"), page.with_suffix(".curves.csv"))
    atomic_write(written.page, html_page(facts, found, drawn, why))
    atomic_write(written.metrics, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    atomic_write(written.curves, curves_csv(facts))
    return written


def _drawn(facts: RunFacts) -> tuple[ModelExamples | None, str]:
    """Samples, or why there are none: a report of a run without a finished model is still a report."""
    from encodery.model.load import load_model

    try:
        return draw_examples(load_model(facts.run), facts), ""
    except EncoderyError as error:
        return None, str(error)


def html_page(facts: RunFacts, found: dict[str, Any], samples: ModelExamples | None, why: str) -> str:
    """The whole page. Every text from outside is escaped by construction."""
    title = f"{facts.run.resolve().name}: an encoder and how it was trained"
    answered = predictions.prediction_sections(facts.run)
    sections = [
        *answered,
        ("Figures", training_curves.metric_table(found)),
        ("Curves", training_curves.curve_grid(facts)),
        ("Fills", examples.fills(samples, why)),
        ("Neighbours", examples.neighbours(samples, why)),
        ("Search", examples.search(facts.search)),
        ("Text", provenance.corpus(facts)),
        ("Tokenizer", provenance.tokenizer(facts)),
        ("Recipe", training_curves.recipe(facts)),
        ("Machine", training_curves.machine(facts)),
        ("Lineage", provenance.lineage(facts)),
        ("Licence and data", provenance.statement(facts)),
    ]
    if answered:
        sections = [(name, content) for name, content in sections if name not in predictions.OF_PRETRAINING]
    anchors = [(name.lower().replace(" ", "-"), name, body) for name, body in sections]
    nav = el("nav", *(el("a", name, href=f"#{anchor}") for anchor, name, _ in anchors))
    lead = el("div", *(el("p", sentence) for sentence in summary(facts)), class_="lead")
    body = [el("section", el("h2", name), content, id=anchor) for anchor, name, content in anchors]
    footer = el(
        "footer", "Made by encodery from the run's folder. It loads nothing from elsewhere.", class_="faint small"
    )
    tiles = predictions.tiles(facts.run, facts.metrics) if answered else training_curves.tiles(found)
    return framed(title, lead, tiles, nav, *body, footer, heading=facts.run.resolve().name)
