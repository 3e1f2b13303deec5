"""Writes the report of a run: one HTML file without script or external request, figures and curves beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.artifact import atomic_write
from encodery.base.errors import EncoderyError, InputError
from encodery.base.markup import el
from encodery.evaluate.report import answers, behaviour, course, origin
from encodery.evaluate.report.facts import Facts, gather
from encodery.evaluate.report.figures import curves, figures
from encodery.evaluate.report.frame import page as framed
from encodery.evaluate.report.samples import Samples, draw
from encodery.evaluate.report.verdict import verdict


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    page: Path
    figures: Path
    curves: Path


def write_report(run: str | Path, out: str | Path | None = None, samples: bool = True) -> Written:
    """The report of a run folder, by default `report.html` in it. `samples` runs the model on held-out text.

    Beside `NAME.html` lie `NAME.figures.json` and `NAME.curves.csv`. Raises `InputError` for a folder that is no run
    and a file that is no .html.
    """
    page = Path(out) if out is not None else Path(run) / "report.html"
    if page.suffix not in (".html", ".htm"):
        raise InputError(f"{page}: the report is an HTML file; give a name that ends in .html.")
    facts = gather(run)
    found = figures(facts)
    drawn, why = _drawn(facts) if samples else (None, "They were left out.")
    page.parent.mkdir(parents=True, exist_ok=True)
    written = Written(page, page.with_suffix(".figures.json"), page.with_suffix(".curves.csv"))
    atomic_write(written.page, html_page(facts, found, drawn, why))
    atomic_write(written.figures, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    atomic_write(written.curves, curves(facts))
    return written


def _drawn(facts: Facts) -> tuple[Samples | None, str]:
    """Samples, or why there are none: a report of a run without a finished model is still a report."""
    from encodery.model.load import load_model

    try:
        return draw(load_model(facts.run), facts), ""
    except EncoderyError as error:
        return None, str(error)


def html_page(facts: Facts, found: dict[str, Any], samples: Samples | None, why: str) -> str:
    """The whole page. Every text from outside is escaped by construction."""
    title = f"{facts.run.resolve().name}: an encoder and how it was trained"
    answered = answers.sections(facts.run)
    sections = [
        *answered,
        ("Figures", course.figure_table(found)),
        ("Curves", course.curve_grid(facts)),
        ("Fills", behaviour.fills(samples, why)),
        ("Neighbours", behaviour.neighbours(samples, why)),
        ("Search", behaviour.search(facts.search)),
        ("Text", origin.corpus(facts)),
        ("Tokenizer", origin.tokenizer(facts)),
        ("Recipe", course.recipe(facts)),
        ("Machine", course.machine(facts)),
        ("Lineage", origin.lineage(facts)),
        ("Licence and data", origin.statement(facts)),
    ]
    if answered:
        sections = [(name, content) for name, content in sections if name not in answers.OF_PRETRAINING]
    anchors = [(name.lower().replace(" ", "-"), name, body) for name, body in sections]
    nav = el("nav", *(el("a", name, href=f"#{anchor}") for anchor, name, _ in anchors))
    lead = el("div", *(el("p", sentence) for sentence in verdict(facts)), class_="lead")
    body = [el("section", el("h2", name), content, id=anchor) for anchor, name, content in anchors]
    footer = el(
        "footer", "Made by encodery from the run's folder. It loads nothing from elsewhere.", class_="faint small"
    )
    tiles = answers.tiles(facts.run, facts.figures) if answered else course.tiles(found)
    return framed(title, lead, tiles, nav, *body, footer, heading=facts.run.resolve().name)
