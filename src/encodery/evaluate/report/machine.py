"""Shows the machine of a run and the version of the package."""

from __future__ import annotations

from encodery.base.markup import Html, el, pairs
from encodery.evaluate.report.run_facts import RunFacts


def machine(facts: RunFacts) -> Html:
    """Return the machine, the version of encodery and the time of completion, as the run recorded them."""
    recorded = facts.metrics.get("machine")
    rows: list[tuple[object, object]] = []
    if isinstance(recorded, dict):
        rows = [(key, f"{value / 2**30:.1f} GiB" if key == "memory" else value) for key, value in recorded.items()]
    if facts.artifact is not None:
        rows += [("encodery", facts.artifact.manifest.version), ("finished", facts.artifact.manifest.created)]
    return pairs(rows) if rows else el("p", "Not recorded.", class_="faint")
