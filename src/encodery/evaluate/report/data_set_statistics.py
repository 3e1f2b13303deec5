"""Shows the statistics of the training text: documents, bytes, sources, and what was dropped for which reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encodery.base.markup import Html, details, el, join, pairs, table
from encodery.evaluate.report.number_format import MISSING, plural, size
from encodery.evaluate.report.run_facts import RunFacts

MAX_ROWS = 12


def data_set_statistics(facts: RunFacts) -> Html:
    """Return the statistics of the corpus, with a few of its documents."""
    corpus = facts.ancestor("corpus")
    if corpus is None:
        return el("p", "Not recorded.", class_="faint")
    report, metrics = facts.corpus_report, corpus.manifest.metrics
    source = report.get("input", {})
    totals = [
        ("documents", plural(metrics.get("documents"), "document")),
        ("text", size(metrics.get("bytes"))),
        ("held out", f"{plural(metrics.get('heldout_documents'), 'document')}, {size(metrics.get('heldout_bytes'))}"),
        ("read from", f"{plural(source.get('files'), 'file')}, {size(source.get('bytes'))}" if source else MISSING),
    ]
    pieces: list[Html] = [pairs(totals)]
    if report.get("sources"):
        pieces += [el("h3", "Sources"), counts_table("source", report["sources"])]
    pieces += [el("h3", "Dropped documents"), _dropped(report)]
    if source.get("problems"):
        pieces.append(el("p", "Files that could not be read: ", _reasons(source["problems"])))
    if report.get("sample"):
        documents = [el("div", el("p", str(s.get("text", s))[:400]), class_="sample") for s in report["sample"][:3]]
        pieces.append(details("Example documents", *documents))
    return join(pieces)


def counts_table(name: str, counts: Mapping[str, Mapping[str, int]]) -> Html:
    """Return a table of documents and bytes per source or licence; those after the first 12 are summed up.

    Args:
        name: the title of the first column.
        counts: `documents` and `bytes` per source or licence, in the order of the table.
    """
    rows = [(key, f"{row.get('documents', 0):,}", size(row.get("bytes"))) for key, row in counts.items()]
    rest = list(counts.values())[MAX_ROWS:]
    if rest:
        documents, total = sum(r.get("documents", 0) for r in rest), sum(r.get("bytes", 0) for r in rest)
        rows = [*rows[:MAX_ROWS], (f"{len(rest)} more", f"{documents:,}", size(total))]
    return table((name, "documents", "text"), rows, numeric=(1, 2))


def _dropped(report: Mapping[str, Any]) -> Html:
    """Return a table of the dropped documents per step and reason."""
    rows = [
        (step, reason, f"{entry.get('documents', 0):,}", size(entry.get("bytes")))
        for step, reasons in report.get("dropped", {}).items()
        for reason, entry in reasons.items()
    ]
    if not rows:
        return el("p", "None." if "dropped" in report else "Not recorded.", class_="faint")
    return table(("step", "reason", "documents", "text"), rows, numeric=(2, 3))


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({count:,})" for reason, count in counts.items()) + "."
