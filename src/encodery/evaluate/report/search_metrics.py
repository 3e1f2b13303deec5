"""Shows the search metrics that were stored with a run."""

from __future__ import annotations

from typing import Any

from encodery.base.markup import Html, el, join, pairs, table
from encodery.evaluate.report.number_format import number


def search_metrics(content: Any) -> Html:
    """Return the content of `search.json` as a table of systems and a list of single values.

    Args:
        content: `{system: {metric: value}}`. An entry with `low` and `high` is a difference between two systems with
            its 95 % interval; a single value is shown below the table.
    """
    if not isinstance(content, dict) or not content:
        return el("p", "Not measured.", class_="faint")
    entries = {name: entry for name, entry in content.items() if isinstance(entry, dict)}
    differences = {name: entry for name, entry in entries.items() if {"low", "high"} <= set(entry)}
    systems = {name: entry for name, entry in entries.items() if name not in differences}
    names = list(dict.fromkeys(key for entry in systems.values() for key in entry))
    pieces: list[Html] = []
    if names:
        cells = [(system, *(_value(entry.get(name)) for name in names)) for system, entry in systems.items()]
        pieces.append(table(("", *names), cells, numeric=tuple(range(1, len(names) + 1))))
    lines: list[tuple[object, object]] = [(name, _difference(entry)) for name, entry in differences.items()]
    lines += [(name, _value(value)) for name, value in content.items() if not isinstance(value, dict)]
    return join((*pieces, pairs(lines))) if lines else join(pieces)


def _difference(entry: dict[str, Any]) -> str:
    """Return a difference as text: ndcg@10 +0.019, 95 % interval -0.004 … +0.041: no clear difference."""
    metrics = ", ".join(f"{name} {value:+.3f}" for name, value in entry.items() if name not in ("low", "high"))
    conclusion = "better" if entry["low"] > 0 else "worse" if entry["high"] < 0 else "no clear difference"
    return f"{metrics}, 95 % interval {entry['low']:+.3f} … {entry['high']:+.3f}: {conclusion}"


def _value(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return "" if value is None else str(value)
