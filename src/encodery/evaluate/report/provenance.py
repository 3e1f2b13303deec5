"""Sections on where the model comes from: corpus, tokenizer, lineage, licence and data statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encodery.base.markup import Html, details, el, join, pairs, table
from encodery.evaluate.report.number_format import MISSING, number, plural, share, size
from encodery.evaluate.report.run_facts import RunFacts

MOST_ROWS = 12
UNNAMED = ("unknown", "", "none", "None", "not given", "unnamed")


def corpus(facts: RunFacts) -> Html:
    """Documents, bytes, sources, and what was dropped and why."""
    found = facts.ancestor("corpus")
    if found is None:
        return el("p", "Not recorded.", class_="faint")
    report, figures = facts.corpus_report, found.manifest.metrics
    given = report.get("input", {})
    facts_of = [
        ("documents", plural(figures.get("documents"), "document")),
        ("text", size(figures.get("bytes"))),
        (
            "held out",
            f"{plural(figures.get('heldout_documents'), 'document')}, {size(figures.get('heldout_bytes'))}",
        ),
        ("made from", f"{plural(given.get('files'), 'file')}, {size(given.get('bytes'))}" if given else MISSING),
    ]
    pieces: list[Html] = [pairs(facts_of)]
    if report.get("sources"):
        pieces += [el("h3", "Sources"), amounts_table("source", report["sources"])]
    pieces += [el("h3", "Dropped"), _dropped(report)]
    if given.get("problems"):
        pieces.append(el("p", "Files that could not be used: ", _counts(given["problems"])))
    if report.get("sample"):
        shown = [el("div", el("p", str(s.get("text", s))[:400]), class_="sample") for s in report["sample"][:3]]
        pieces.append(details("A few documents", *shown))
    return join(pieces)


def amounts_table(name: str, rows: Mapping[str, Mapping[str, int]]) -> Html:
    """Documents and bytes by some name, largest first; the many small ones are summed up."""
    shown = [(key, f"{row.get('documents', 0):,}", size(row.get("bytes"))) for key, row in rows.items()]
    rest = list(rows.values())[MOST_ROWS:]
    if rest:
        documents, total = sum(r.get("documents", 0) for r in rest), sum(r.get("bytes", 0) for r in rest)
        shown = [*shown[:MOST_ROWS], (f"{len(rest)} more", f"{documents:,}", size(total))]
    return table((name, "documents", "text"), shown, numeric=(1, 2))


def _dropped(report: Mapping[str, Any]) -> Html:
    rows = [
        (step, reason, f"{entry.get('documents', 0):,}", size(entry.get("bytes")))
        for step, reasons in report.get("dropped", {}).items()
        for reason, entry in reasons.items()
    ]
    if not rows:
        return el("p", "Nothing." if "dropped" in report else "Not recorded.", class_="faint")
    return table(("step", "reason", "documents", "text"), rows, numeric=(2, 3))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({count:,})" for reason, count in counts.items()) + "."


def tokenizer(facts: RunFacts) -> Html:
    """The vocabulary and how well it fits the text."""
    store, own = facts.ancestor("tokens"), facts.ancestor("tokenizer")
    rows: list[tuple[object, object]] = []
    if own is not None:
        rows.append(("kind", _kind(own.manifest.settings)))
    if store is not None:
        figures, settings = store.manifest.metrics, store.manifest.settings
        train, heldout = figures.get("train", {}), figures.get("heldout", {})
        rows += [
            ("vocabulary", number(settings.get("special_tokens", {}).get("vocab_size"))),
            ("tokens", f"{number(train.get('tokens'))} to train on, {number(heldout.get('tokens'))} held out"),
            ("bytes a token", number(_ratio(heldout.get("bytes"), heldout.get("tokens")))),
            ("unknown tokens", share(_ratio(heldout.get("unknown"), heldout.get("tokens")))),
        ]
    measured = facts.tokenizer_metrics
    if measured is not None:
        rows += [
            ("tokens a word", number(measured.tokens_per_word)),
            ("words that are one token", share(measured.single_token_words)),
            ("of the vocabulary used", share(measured.vocabulary_used)),
            ("longest pieces", " ".join(measured.longest_pieces[:12])),
        ]
    return pairs(rows) if rows else el("p", "Not recorded.", class_="faint")


def _kind(settings: Mapping[str, Any]) -> str:
    kind = settings.get("kind", settings)
    return str(kind.get("is", MISSING)) if isinstance(kind, Mapping) else str(kind)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def lineage(facts: RunFacts) -> Html:
    """The artifacts this run came from, each by the fingerprint of its contents."""
    rows: list[tuple[object, ...]] = []
    if facts.artifact is not None:
        own = facts.artifact.manifest
        rows.append(("this run", own.kind, el("code", own.fingerprint), ""))
    for ancestor in facts.lineage:
        name = "\u2003" * (ancestor.depth + 1) + ancestor.name
        fingerprint = el("code", ancestor.fingerprint, title=ancestor.path)
        rows.append((name, ancestor.kind, fingerprint, ancestor.problem))
    if not rows:
        return el("p", "Not recorded.", class_="faint")
    return table(("artifact", "kind", "fingerprint", ""), rows)


def statement(facts: RunFacts) -> Html:
    """Licences of the text, and what the reader must decide for himself."""
    licences = facts.corpus_report.get("licenses", {})
    if not licences:
        return el(
            "p",
            "The licences of the training text were not recorded. Whether the weights may be passed on depends on "
            "them.",
        )
    unnamed = sum(row.get("documents", 0) for name, row in licences.items() if name in UNNAMED)
    words = (
        f"The text came under {plural(len(licences), 'licence')}, as its sources name them. "
        + (f"{plural(unnamed, 'document')} named none. " if unnamed else "")
        + "The model holds no text, but can repeat pieces of what it saw often; whether the weights may be passed on, "
        "and under which terms, follows from these licences and your law. The licence of encodery covers neither. "
        "A share of the text was held out by a hash of each document, after duplicates were removed, and was never "
        "trained on. No person labelled or filtered anything; what the sources hold of errors, dated facts and "
        "prejudice, the model has learnt too."
    )
    return join((el("p", words), amounts_table("licence", licences)))
