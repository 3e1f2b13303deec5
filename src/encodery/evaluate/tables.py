"""Write a comparison as a table on the console, as JSON, CSV or Markdown, or as a self-contained HTML page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encodery.base.artifact import atomic_write
from encodery.base.errors import InputError
from encodery.base.markup import Html, details, el, pairs, table
from encodery.evaluate.compare import Comparison, Row, speeds
from encodery.evaluate.report.number_format import number, percentage, plural, size
from encodery.evaluate.report.page import page
from encodery.evaluate.significance import Difference

if TYPE_CHECKING:
    from rich.table import Table

QUALITY = ("95 %", "to the first", "p")
COST = ("texts/s", "tokens/s", "padding", "dropped", "memory")
HEAD = ("system", "metric", "value", *QUALITY, *COST)
FORMATS = (".html", ".json", ".csv", ".md")
COMPARED = ("value", "low", "high", "difference", "difference_low", "difference_high", "p")
UNKNOWN = "?"
MAX_OTHERS = 5
"""The number of metrics other than the main one that the console shows; files contain all."""
NOTE = (
    "Intervals are 95 %, by bootstrap over the items; differences are to the first system on the same items, with the "
    "probability of a difference as large by chance. Speed is that of encoding, including tokenisation; padding is the "
    "fraction of computed positions that are padding; memory is the peak above the memory in use before loading."
)


def write(comparison: Comparison, path: Path) -> None:
    """Write a comparison to a file, in the format of its suffix. Raises `InputError` for an unknown suffix."""
    formats = {".html": html_page, ".json": as_json, ".csv": as_csv, ".md": as_markdown}
    if path.suffix not in formats:
        raise InputError(f"{path}: the suffix must be {', '.join(FORMATS)}, not '{path.suffix}'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, formats[path.suffix](comparison))


def as_json(comparison: Comparison) -> str:
    """Return all metrics of all rows as JSON."""
    return json.dumps(comparison.to_dict(), indent=1, ensure_ascii=False) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Return one line per task and system as CSV: the main metric as `value`, and every metric under its name.

    Each has its interval and its difference to the first system.
    """
    lines = []
    for row in comparison.rows:
        line = row.to_dict()
        compared: dict[str, dict[str, Any]] = line.pop("compared", {})
        kept = {key: value for key, value in line.items() if key not in ("metrics", "notes")}
        line = {**dict.fromkeys(("task", "system", "metric", *COMPARED)), **kept}
        for name, values in compared.items():
            line |= {name if key == "value" else f"{name}_{key}": values.get(key) for key in COMPARED}
        lines.append(line)
    columns = dict.fromkeys(name for line in lines for name in line)
    names = [name for name in columns if any(line.get(name) is not None for line in lines)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_markdown(comparison: Comparison) -> str:
    """Return one section per task as Markdown: quality and cost, all metrics, and notes."""
    pieces = []
    for task, rows in _by_task(comparison).items():
        head = f"## {_escaped(task)}\n\n{plural(_items(rows), 'item')}\n"
        pieces += [head, _piped(HEAD, [_cells(row) for row in rows], 2)]
        if len(_names(rows)) > 1:
            pieces.append(_piped(("metric", "system", "value", *QUALITY), _all_lines(rows), 2))
        pieces += [f"- {_escaped(line)}" for line in _notes(rows)]
    return "\n".join([*pieces, "", NOTE, ""])


def _piped(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> str:
    """Return a Markdown table whose first `texts` columns are aligned left."""
    ruler = ["---" if column < texts else "---:" for column in range(len(head))]
    rows = [head, ruler, *([_escaped(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _escaped(text: str) -> str:
    """Return text with the special characters of Markdown escaped."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def rich_tables(comparison: Comparison) -> list[Table]:
    """Return the tables for the console: quality by task, the first of the other metrics, and the cost of each system.

    Empty columns are left out.
    """
    tasks, tables = _by_task(comparison), []
    for task, rows in tasks.items():
        items = _items(rows)
        head = (task if items is None else f"{task}, {plural(items, 'item')}", _main(rows), *QUALITY)
        tables.append(_rich(head, [(row.system, *_quality(row, row.main_metric)) for row in rows]))
        names = [name for name in _names(rows) if name != _main(rows)]
        if names:
            title = f"other metrics, {MAX_OTHERS} of {len(names)}" if len(names) > MAX_OTHERS else "other metrics"
            lines = [(row.system, *(_short(row, name) for name in names[:MAX_OTHERS])) for row in rows]
            tables.append(_rich((title, *names[:MAX_OTHERS]), lines))
    many = len(tasks) > 1
    lines = [
        ((row.task,) if many else ()) + (row.system, *_cost(row)) for row in comparison.rows if row.result is not None
    ]
    tables.append(_rich((*(("task",) if many else ()), "system", *COST), lines, texts=1 + many))
    return tables


def _by_task(comparison: Comparison) -> dict[str, list[Row]]:
    tasks: dict[str, list[Row]] = {}
    for row in comparison.rows:
        tasks.setdefault(row.task, []).append(row)
    return tasks


def _items(rows: Sequence[Row]) -> int | None:
    return next((row.result.items for row in rows if row.result is not None), None)


def _main(rows: Sequence[Row]) -> str:
    return next((row.main_metric for row in rows if row.result is not None), rows[0].main_metric)


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the names of all metrics."""
    return list(dict.fromkeys(name for row in rows if row.result is not None for name in row.result.metrics))


def _rich(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int = 1) -> Table:
    """Return a table whose first `texts` columns are aligned left."""
    from rich.table import Table
    from rich.text import Text

    shown = [column for column in range(len(head)) if column < texts or any(line[column] for line in lines)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in shown:
        table.add_column(head[column], justify="left" if column < texts else "right", no_wrap=column >= texts)
    for line in lines:
        table.add_row(*(Text(line[column]) for column in shown))
    return table


def notes(comparison: Comparison) -> list[str]:
    """Return the reasons of empty rows and the notes of the others."""
    return _notes(comparison.rows)


def _notes(rows: Sequence[Row]) -> list[str]:
    reasons = [row.reason for row in rows if row.reason]
    notes = [note for row in rows if row.result is not None for note in row.result.notes]
    return list(dict.fromkeys([*reasons, *notes]))


def html_page(comparison: Comparison) -> str:
    """Return the page: one table per task, all metrics in a collapsed section, and the machine. It loads nothing."""
    pieces: list[Html] = []
    for task, rows in _by_task(comparison).items():
        body = table(HEAD, [_cells(row) for row in rows], numeric=range(2, len(HEAD)))
        footnotes = [el("p", line, class_="faint small") for line in _notes(rows)]
        pieces.append(
            el("section", el("h2", task), el("p", plural(_items(rows), "item")), body, *footnotes, _all(rows))
        )
    notes = el("p", NOTE, class_="faint small")
    about = el("section", el("h2", "Machine"), pairs((name, value) for name, value in comparison.machine.items()))
    return page("Systems compared", *pieces, notes, about)


def _all(rows: list[Row]) -> Html:
    if len(_names(rows)) < 2:
        return Html("")
    return details("All metrics", table(("metric", "system", "value", *QUALITY), _all_lines(rows), range(2, 6)))


def _all_lines(rows: list[Row]) -> list[tuple[str, ...]]:
    """Return the cells of every metric of every system, metric by metric."""
    results = [(row, row.result.metrics) for row in rows if row.result is not None]
    return [
        (name, row.system, *_quality(row, name)) for name in _names(rows) for row, metrics in results if name in metrics
    ]


def _cells(row: Row) -> tuple[str, ...]:
    """Return the cells of one row."""
    return (row.system, row.main_metric, *_quality(row, row.main_metric), *_cost(row))


def _quality(row: Row, name: str) -> tuple[str, ...]:
    """Return the value, interval, difference and p of a metric; empty if they are not defined."""
    if row.result is None:
        return ("–", "", "", "")
    interval, difference = row.intervals.get(name), row.differences.get(name)
    return (
        _format_value(row.result.metrics[name].value),
        "" if interval is None else f"{interval[0]:.3f} … {interval[1]:.3f}",
        "" if difference is None else f"{difference.value:+.3f}{_format_interval(difference)}",
        "" if difference is None else format_p(difference.p),
    )


def format_p(p: float) -> str:
    """Return the p-value of a test as text."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _short(row: Row, name: str) -> str:
    """Return a metric and half the width of its interval."""
    if row.result is None or name not in row.result.metrics:
        return "–"
    interval = row.intervals.get(name)
    half = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.3f}"
    return f"{_format_value(row.result.metrics[name].value)}{half}"


def _cost(row: Row) -> tuple[str, ...]:
    """Return the cost of a row; `?` stands for what a system does not report."""
    if row.result is None:
        return ("",) * len(COST)
    counters, speed = row.result.counters, speeds(row.result.counters)
    padded = None if counters.padding is None or counters.tokens is None else counters.padding + counters.tokens
    return (
        number(speed.get("texts")) if speed else "",
        (number(speed["tokens"]) if "tokens" in speed else UNKNOWN) if speed else "",
        UNKNOWN if padded is None else percentage((counters.padding or 0) / max(padded, 1)),
        UNKNOWN if counters.dropped is None else f"{counters.dropped:,}",
        "" if row.result.memory is None else size(row.result.memory),
    )


def _format_interval(difference: Difference) -> str:
    interval = difference.interval
    return "" if interval is None else f" ({interval[0]:+.3f} … {interval[1]:+.3f})"


def _format_value(value: Any) -> str:
    return "undefined" if value != value else f"{value:.4f}"
