"""Shows the recipe of a run: its settings in brief, and the complete recipe collapsed."""

from __future__ import annotations

import json

from encodery.base.markup import Html, details, el, join, pairs, text
from encodery.evaluate.report.run_facts import RunFacts


def recipe(facts: RunFacts) -> Html:
    """Return one line per table of settings, followed by the complete recipe as JSON."""
    if not facts.recipe:
        return el("p", "Not recorded.", class_="faint")
    complete = json.dumps(facts.recipe, indent=2, ensure_ascii=False)
    brief = [(name, _brief(value)) for name, value in facts.settings.items() if value not in ({}, [], None, "")]
    return join((pairs(brief), details("All settings", el("pre", el("code", complete)))))


def _brief(value: object) -> Html:
    """Return a table of settings as one line: the name of the part, then its scalar values."""
    if not isinstance(value, dict):
        return text(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value)
    parts = []
    for key, item in value.items():
        if isinstance(item, dict):
            item = item.get("is")
        if item is not None and not isinstance(item, list):
            parts.append(f"{item}" if key == "is" else f"{key} {item}")
    return text(" · ".join(parts) or "…")
