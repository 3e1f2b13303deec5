"""Shows the provenance of a model: the artifacts that it was made from, and the licences of its training text."""

from __future__ import annotations

from encodery.base.markup import Html, el, join, table
from encodery.evaluate.report.data_set_statistics import counts_table
from encodery.evaluate.report.number_format import plural
from encodery.evaluate.report.run_facts import RunFacts

UNNAMED = ("unknown", "", "none", "None", "not given", "unnamed")
"""Values of a licence that mean that the source names none."""


def provenance(facts: RunFacts) -> Html:
    """Return the run and its ancestors, each with the fingerprint of its contents."""
    rows: list[tuple[object, ...]] = []
    if facts.artifact is not None:
        manifest = facts.artifact.manifest
        rows.append(("this run", manifest.kind, el("code", manifest.fingerprint), ""))
    for ancestor in facts.lineage:
        name = "\u2003" * (ancestor.depth + 1) + ancestor.name
        fingerprint = el("code", ancestor.fingerprint, title=ancestor.path)
        rows.append((name, ancestor.kind, fingerprint, ancestor.problem))
    if not rows:
        return el("p", "Not recorded.", class_="faint")
    return table(("artifact", "kind", "fingerprint", ""), rows)


def licences(facts: RunFacts) -> Html:
    """Return the licences of the training text, and what they mean for passing the weights on."""
    counts = facts.corpus_report.get("licenses", {})
    if not counts:
        return el(
            "p",
            "The licences of the training text were not recorded. They decide whether the weights may be passed on.",
        )
    unnamed = sum(row.get("documents", 0) for name, row in counts.items() if name in UNNAMED)
    statement = (
        f"The sources name {plural(len(counts), 'licence')} for the training text. "
        + (f"{plural(unnamed, 'document')} named none. " if unnamed else "")
        + "The model does not store the text, but it can reproduce passages that were frequent in it. Whether the "
        "weights may be passed on, and under which terms, depends on these licences and on the law that applies to "
        "you; the licence of encodery covers neither. A fraction of the documents was selected by a hash and held out, "
        "after duplicates were removed; the model was never trained on it. Nobody labelled or filtered the text by "
        "hand, so the model has also learned the errors, outdated facts and prejudices that are in its sources."
    )
    return join((el("p", statement), counts_table("licence", counts)))
