"""A comparison as a table on the console, as JSON, as CSV, and as a page that stands by itself."""

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
from encodery.evaluate.report.amounts import number, plural, share, size
from encodery.evaluate.report.frame import page

if TYPE_CHECKING:
    from rich.table import Table

QUALITY = ("95 %", "to the first", "p")
COST = ("texts/s", "tokens/s", "padding", "dropped", "memory")
HEAD = ("system", "figure", "value", *QUALITY, *COST)
FORMATS = (".html", ".json", ".csv")
UNKNOWN = "?"


def write(found: Comparison, path: Path) -> None:
    """Into a file, as its ending says. Raises `InputError` for another ending."""
    kinds = {".html": html_page, ".json": as_json, ".csv": as_csv}
    if path.suffix not in kinds:
        raise InputError(f"{path}: a table is written to {', '.join(FORMATS)}, not '{path.suffix}'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, kinds[path.suffix](found))


def as_json(found: Comparison) -> str:
    """Every figure of every line."""
    return json.dumps(found.table(), indent=1, ensure_ascii=False) + "\n"


def as_csv(found: Comparison) -> str:
    """A line each, the main figure only."""
    lines = [{key: value for key, value in row.table().items() if key != "figures"} for row in found.rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def rich_tables(found: Comparison) -> list[Table]:
    """For the console: a table of quality for each task, then one of what each system cost. Columns in which no line
    says anything are left out."""
    tasks = list(dict.fromkeys(row.task for row in found.rows))
    made = []
    for task in tasks:
        rows = [row for row in found.rows if row.task == task]
        count = next((plural(row.result.items, "item") for row in rows if row.result is not None), "")
        head = (f"{task}, {count}" if count else task, rows[0].main, *QUALITY)
        made.append(_rich(head, [(row.system, *_quality(row)) for row in rows]))
    many = len(tasks) > 1
    lines = [((row.task,) if many else ()) + (row.system, *_cost(row)) for row in found.rows if row.result is not None]
    made.append(_rich((*(("task",) if many else ()), "system", *COST), lines, texts=1 + many))
    return made


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


def reasons(found: Comparison) -> list[str]:
    """Why lines are empty."""
    return list(dict.fromkeys(row.why for row in found.rows if row.why))


def html_page(found: Comparison) -> str:
    """The page: a table for each task, all figures folded away below, the machine. It loads nothing from elsewhere."""
    pieces: list[Html] = []
    for task in dict.fromkeys(row.task for row in found.rows):
        rows = [row for row in found.rows if row.task == task]
        items = next((row.result.items for row in rows if row.result is not None), None)
        body = table(HEAD, [_cells(row) for row in rows], numeric=range(2, len(HEAD)))
        empty = [el("p", row.why, class_="faint small") for row in rows if row.why]
        pieces.append(el("section", el("h2", task), el("p", plural(items, "item")), body, *empty, _all(rows)))
    notes = el(
        "p",
        "Intervals are 95 %, by bootstrap over the items; differences are to the first system on the same items, with "
        "the probability of one as large by chance. Speed is of encoding with tokenisation; padding is the share of "
        "computed tokens that are none; memory is the peak above what was held before the system was loaded.",
        class_="faint small",
    )
    about = el("section", el("h2", "Machine"), pairs((name, value) for name, value in found.machine.items()))
    return page("Systems compared", *pieces, notes, about)


def _all(rows: list[Row]) -> Html:
    held = [row.result for row in rows if row.result is not None]
    names = list(dict.fromkeys(name for result in held for name in result.figures))
    if len(names) < 2:
        return Html("")
    lines = [
        (name, *(_figure(result.figures[name].value) if name in result.figures else "" for result in held))
        for name in names
    ]
    return details("All figures", table(("", *(result.system for result in held)), lines, range(1, len(held) + 1)))


def _cells(row: Row) -> tuple[str, ...]:
    """The texts of one line."""
    return (row.system, row.main, *_quality(row), *_cost(row))


def _quality(row: Row) -> tuple[str, ...]:
    """Empty where there is nothing to say."""
    if row.result is None:
        return ("–", "", "", "")
    return (
        _figure(row.result.value),
        "" if row.interval is None else f"{row.interval[0]:.3f} … {row.interval[1]:.3f}",
        "" if row.apart is None else f"{row.apart.value:+.3f}{_between(row)}",
        "" if row.apart is None else "<0.001" if row.apart.p < 0.001 else f"{row.apart.p:.3f}",
    )


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


def _between(row: Row) -> str:
    if row.apart is None or row.apart.interval is None:
        return ""
    return f" ({row.apart.interval[0]:+.3f} … {row.apart.interval[1]:+.3f})"


def _figure(value: Any) -> str:
    return "undefined" if value != value else f"{value:.4f}"
