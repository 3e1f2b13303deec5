"""Writes the report of a run: an HTML page without scripts or external requests, with metrics and curves as files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.artifact import atomic_write
from encodery.base.errors import EncoderyError, InputError
from encodery.base.markup import Html, el
from encodery.evaluate.report.data_set_statistics import data_set_statistics
from encodery.evaluate.report.draw_examples import ModelExamples, draw_examples
from encodery.evaluate.report.examples import masked_words, nearest_neighbours
from encodery.evaluate.report.machine import machine
from encodery.evaluate.report.metric_table import metric_table
from encodery.evaluate.report.page import page as page_of
from encodery.evaluate.report.predictions import prediction_sections, prediction_tiles
from encodery.evaluate.report.provenance import licences, provenance
from encodery.evaluate.report.recipe import recipe
from encodery.evaluate.report.run_facts import RunFacts, read_run
from encodery.evaluate.report.run_metrics import run_metrics
from encodery.evaluate.report.search_metrics import search_metrics
from encodery.evaluate.report.summary import summary
from encodery.evaluate.report.tiles import pretraining_tiles
from encodery.evaluate.report.tokenizer_statistics import tokenizer_statistics
from encodery.evaluate.report.training_curves import curves_csv, training_curves


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    page: Path
    metrics: Path
    curves: Path


def write_report(run: str | Path, out: str | Path | None = None, samples: bool = True) -> ReportFiles:
    """Write the report of a run folder and return its files.

    Args:
        run: the run folder.
        out: the HTML file, by default `report.html` in the run folder. `NAME.metrics.json` and `NAME.curves.csv` are
            written next to `NAME.html`.
        samples: whether to run the model on held-out text to show example predictions.

    Raises `InputError` if the folder is not a run folder or the file name does not end in `.html` or `.htm`.
    """
    page = Path(out) if out is not None else Path(run) / "report.html"
    if page.suffix not in (".html", ".htm"):
        raise InputError(f"{page}: the report is an HTML file; choose a name that ends in .html.")
    facts = read_run(run)
    metrics = run_metrics(facts)
    examples, reason = _examples(facts) if samples else (None, "Examples were switched off.")
    page.parent.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(page, page.with_suffix(".metrics.json"), page.with_suffix(".curves.csv"))
    atomic_write(files.page, html_page(facts, metrics, examples, reason))
    atomic_write(files.metrics, json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    atomic_write(files.curves, curves_csv(facts))
    return files


def _examples(facts: RunFacts) -> tuple[ModelExamples | None, str]:
    """Return the examples, or None and the reason, so that a run without a finished model still has a report."""
    from encodery.model.load import load_model

    try:
        return draw_examples(load_model(facts.run), facts), ""
    except EncoderyError as error:
        return None, str(error)


def html_page(facts: RunFacts, metrics: dict[str, Any], examples: ModelExamples | None, reason: str) -> str:
    """Return the report as an HTML page. External texts are escaped.

    Args:
        facts: the records of the run.
        metrics: the metrics of the run, from `run_metrics`.
        examples: example predictions, or None.
        reason: why there are no examples; shown in their place.
    """
    name = facts.run.resolve().name
    predictions = prediction_sections(facts.run)
    if predictions:
        tiles = prediction_tiles(facts.run, facts.metrics)
        sections = [*predictions, ("Training curves", training_curves(facts))]
    else:
        tiles = pretraining_tiles(metrics)
        sections = _pretraining_sections(facts, metrics, examples, reason)
    sections += [
        ("Recipe", recipe(facts)),
        ("Machine", machine(facts)),
        ("Provenance", provenance(facts)),
        ("Licences", licences(facts)),
    ]
    anchors = [(heading.lower().replace(" ", "-"), heading, content) for heading, content in sections]
    navigation = el("nav", *(el("a", heading, href=f"#{anchor}") for anchor, heading, _ in anchors))
    lead = el("div", *(el("p", sentence) for sentence in summary(facts)), class_="lead")
    body = [el("section", el("h2", heading), content, id=anchor) for anchor, heading, content in anchors]
    footer = el(
        "footer",
        "Written by encodery from the run folder. The page loads nothing from the network.",
        class_="faint small",
    )
    return page_of(f"{name}: report of a run", lead, tiles, navigation, *body, footer, heading=name)


def _pretraining_sections(
    facts: RunFacts, metrics: dict[str, Any], examples: ModelExamples | None, reason: str
) -> list[tuple[str, Html]]:
    """Return heading and content of the sections that only the report of a pretraining run has."""
    return [
        ("Metrics", metric_table(metrics)),
        ("Training curves", training_curves(facts)),
        ("Example predictions", masked_words(examples, reason)),
        ("Nearest neighbours", nearest_neighbours(examples, reason)),
        ("Search metrics", search_metrics(facts.search)),
        ("Data set statistics", data_set_statistics(facts)),
        ("Tokenizer", tokenizer_statistics(facts)),
    ]
