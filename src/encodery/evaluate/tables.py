"""A comparison as a table on the console, as JSON, as CSV, as Markdown, and as a page that stands by itself."""

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
from encodery.evaluate.report.number_format import number, plural, share, size
from encodery.evaluate.report.page import page
from encodery.evaluate.significance import Difference

if TYPE_CHECKING:
    from rich.table import Table

QUALITY = ("95 %", "to the first", "p")
COST = ("texts/s", "tokens/s", "padding", "dropped", "memory")
HEAD = ("system", "figure", "value", *QUALITY, *COST)
FORMATS = (".html", ".json", ".csv", ".md")
JUDGED = ("value", "low", "high", "difference", "difference_low", "difference_high", "p")
UNKNOWN = "?"
BESIDE = 5
"""Figures beside the main one that the console shows; the files have all."""
NOTE = (
    "Intervals are 95 %, by bootstrap over the items; differences are to the first system on the same items, with the "
    "probability of one as large by chance. Speed is of encoding with tokenisation; padding is the share of computed "
    "tokens that are none; memory is the peak above what was held before the system was loaded."
)


def write(found: Comparison, path: Path) -> None:
    """Into a file, as its ending says. Raises `InputError` for another ending."""
    kinds = {".html": html_page, ".json": as_json, ".csv": as_csv, ".md": as_markdown}
    if path.suffix not in kinds:
        raise InputError(f"{path}: a table is written to {', '.join(FORMATS)}, not '{path.suffix}'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, kinds[path.suffix](found))


def as_json(found: Comparison) -> str:
    """Every figure of every line."""
    return json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"


def as_csv(found: Comparison) -> str:
    """A line for each system: the main figure as `value`, every figure under its name, each with its interval and its
    difference to the first system."""
    lines = []
    for row in found.rows:
        line = row.to_dict()
        judged: dict[str, dict[str, Any]] = line.pop("judged", {})
        kept = {key: value for key, value in line.items() if key not in ("figures", "notes")}
        line = {**dict.fromkeys(("task", "system", "figure", *JUDGED)), **kept}
        for name, plain in judged.items():
            line |= {name if key == "value" else f"{name}_{key}": plain.get(key) for key in JUDGED}
        lines.append(line)
    known = dict.fromkeys(name for line in lines for name in line)
    names = [name for name in known if any(line.get(name) is not None for line in lines)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_markdown(found: Comparison) -> str:
    """A section for each task: quality and cost, all figures, what is to be known of them."""
    pieces = []
    for task, rows in _by_task(found).items():
        head = f"## {_escaped(task)}\n\n{plural(_items(rows), 'item')}\n"
        pieces += [head, _piped(HEAD, [_cells(row) for row in rows], 2)]
        if len(_names(rows)) > 1:
            pieces.append(_piped(("figure", "system", "value", *QUALITY), _all_lines(rows), 2))
        pieces += [f"- {_escaped(line)}" for line in _told(rows)]
    return "\n".join([*pieces, "", NOTE, ""])


def _piped(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int) -> str:
    """A table of Markdown whose first `texts` columns are set to the left."""
    ruler = ["---" if place < texts else "---:" for place in range(len(head))]
    rows = [head, ruler, *([_escaped(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _escaped(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def rich_tables(found: Comparison) -> list[Table]:
    """For the console: a table of quality for each task, one of the first figures beside the main one, then one of
    what each system cost. Columns in which no line says anything are left out."""
    tasks, made = _by_task(found), []
    for task, rows in tasks.items():
        items = _items(rows)
        head = (task if items is None else f"{task}, {plural(items, 'item')}", _main(rows), *QUALITY)
        made.append(_rich(head, [(row.system, *_quality(row, row.main_metric)) for row in rows]))
        names = [name for name in _names(rows) if name != _main(rows)]
        if names:
            more = f"beside, {BESIDE} of {len(names)}" if len(names) > BESIDE else "beside"
            lines = [(row.system, *(_short(row, name) for name in names[:BESIDE])) for row in rows]
            made.append(_rich((more, *names[:BESIDE]), lines))
    many = len(tasks) > 1
    lines = [((row.task,) if many else ()) + (row.system, *_cost(row)) for row in found.rows if row.result is not None]
    made.append(_rich((*(("task",) if many else ()), "system", *COST), lines, texts=1 + many))
    return made


def _by_task(found: Comparison) -> dict[str, list[Row]]:
    tasks: dict[str, list[Row]] = {}
    for row in found.rows:
        tasks.setdefault(row.task, []).append(row)
    return tasks


def _items(rows: Sequence[Row]) -> int | None:
    return next((row.result.items for row in rows if row.result is not None), None)


def _main(rows: Sequence[Row]) -> str:
    return next((row.main_metric for row in rows if row.result is not None), rows[0].main_metric)


def _names(rows: Sequence[Row]) -> list[str]:
    """Every figure of some system."""
    return list(dict.fromkeys(name for row in rows if row.result is not None for name in row.result.metrics))


def _rich(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int = 1) -> Table:
    """A table whose first `texts` columns are set to the left."""
    from rich.table import Table
    from rich.text import Text

    shown = [place for place in range(len(head)) if place < texts or any(line[place] for line in lines)]
    made = Table(box=None, header_style="bold", pad_edge=False)
    for place in shown:
        made.add_column(head[place], justify="left" if place < texts else "right", no_wrap=place >= texts)
    for line in lines:
        made.add_row(*(Text(line[place]) for place in shown))
    return made


def notes(found: Comparison) -> list[str]:
    """Why lines are empty, and what is to be known of those that are not."""
    return _told(found.rows)


def _told(rows: Sequence[Row]) -> list[str]:
    whys = [row.reason for row in rows if row.reason]
    notes = [remark for row in rows if row.result is not None for remark in row.result.notes]
    return list(dict.fromkeys([*whys, *notes]))


def html_page(found: Comparison) -> str:
    """The page: a table for each task, all figures folded away below, the machine. It loads nothing from elsewhere."""
    pieces: list[Html] = []
    for task, rows in _by_task(found).items():
        body = table(HEAD, [_cells(row) for row in rows], numeric=range(2, len(HEAD)))
        told = [el("p", line, class_="faint small") for line in _told(rows)]
        pieces.append(el("section", el("h2", task), el("p", plural(_items(rows), "item")), body, *told, _all(rows)))
    notes = el("p", NOTE, class_="faint small")
    about = el("section", el("h2", "Machine"), pairs((name, value) for name, value in found.machine.items()))
    return page("Systems compared", *pieces, notes, about)


def _all(rows: list[Row]) -> Html:
    if len(_names(rows)) < 2:
        return Html("")
    return details("All figures", table(("figure", "system", "value", *QUALITY), _all_lines(rows), range(2, 6)))


def _all_lines(rows: list[Row]) -> list[tuple[str, ...]]:
    """Every figure of every system, figure by figure."""
    held = [(row, row.result.metrics) for row in rows if row.result is not None]
    return [
        (name, row.system, *_quality(row, name)) for name in _names(rows) for row, figures in held if name in figures
    ]


def _cells(row: Row) -> tuple[str, ...]:
    """The texts of one line."""
    return (row.system, row.main_metric, *_quality(row, row.main_metric), *_cost(row))


def _quality(row: Row, name: str) -> tuple[str, ...]:
    """A figure's value, interval, difference and probability; empty where there is nothing to say."""
    if row.result is None:
        return ("–", "", "", "")
    interval, apart = row.intervals.get(name), row.differences.get(name)
    return (
        _figure(row.result.metrics[name].value),
        "" if interval is None else f"{interval[0]:.3f} … {interval[1]:.3f}",
        "" if apart is None else f"{apart.value:+.3f}{_between(apart)}",
        "" if apart is None else format_p(apart.p),
    )


def format_p(p: float) -> str:
    """A probability of a test, in words of one table."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _short(row: Row, name: str) -> str:
    """A figure and half the width of its interval."""
    if row.result is None or name not in row.result.metrics:
        return "–"
    interval = row.intervals.get(name)
    half = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.3f}"
    return f"{_figure(row.result.metrics[name].value)}{half}"


def _cost(row: Row) -> tuple[str, ...]:
    """`?` where a system does not tell."""
    if row.result is None:
        return ("",) * len(COST)
    counters, speed = row.result.counters, speeds(row.result.counters)
    padded = None if counters.padding is None or counters.tokens is None else counters.padding + counters.tokens
    return (
        number(speed.get("texts")) if speed else "",
        (number(speed["tokens"]) if "tokens" in speed else UNKNOWN) if speed else "",
        UNKNOWN if padded is None else share((counters.padding or 0) / max(padded, 1)),
        UNKNOWN if counters.dropped is None else f"{counters.dropped:,}",
        "" if row.result.memory is None else size(row.result.memory),
    )


def _between(apart: Difference) -> str:
    return "" if apart.interval is None else f" ({apart.interval[0]:+.3f} … {apart.interval[1]:+.3f})"


def _figure(value: Any) -> str:
    return "undefined" if value != value else f"{value:.4f}"
