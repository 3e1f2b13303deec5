"""Check labelled rows: missing labels, empty texts, duplicates, contradictions, leaks, and rare or unseen classes.

Two texts are equal if they differ only in case, character width and whitespace. Shapes: R rows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from encodery.base.errors import EmptyInput, InputError
from encodery.rows.split import row_keys
from encodery.rows.table import Table

MAX_SHOWN = 5
MISSING_NUMBERS = ("nan", "na", "n/a", "null", "none")
IMBALANCE = 10.0  # Ratio of the largest class to the smallest from which a finding is reported.


@dataclass(frozen=True)
class Finding:
    """One kind of error in one split.

    `kind` is counts, imbalanced, unseen_class, empty, duplicate, contradictory or leak; `rows` is the number of rows,
    and `examples` are the locations of the first of them.
    """

    kind: str
    split: str
    rows: int
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """All findings, class counts first; `classes`: split -> class -> number of rows, most frequent first."""

    findings: tuple[Finding, ...]
    classes: Mapping[str, Mapping[str, int]]

    @property
    def messages(self) -> list[str]:
        """One line of text per finding."""
        examples = [f" ({'; '.join(one.examples)})" if one.examples else "" for one in self.findings]
        return [f"{one.split}: {one.message}{shown}" for one, shown in zip(self.findings, examples, strict=True)]

    def count(self, kind: str, split: str) -> int:
        """Return the number of rows with a kind of finding in a split."""
        return sum(one.rows for one in self.findings if (one.kind, one.split) == (kind, split))

    @property
    def as_json(self) -> dict[str, Any]:
        """The findings as plain values, for reports."""
        return {
            "findings": [{**asdict(one), "examples": list(one.examples)} for one in self.findings],
            "classes": {split: dict(counts) for split, counts in self.classes.items()},
        }


def complete_rows(
    table: Table,
    columns: Sequence[str],
    missing: Literal["error", "drop"] = "error",
    numeric: Sequence[str] = (),
) -> tuple[Table, np.ndarray]:
    """Return the rows without a missing cell (None, NaN, empty) in the given columns, and the numbers of the others.

    Args:
        missing: what to do if there are rows with missing cells: raise an "error", or "drop" them.
        numeric: columns in which the text "nan", "na" or "null" counts as missing, too.

    Raises `InputError` naming the rows unless they are dropped, and `EmptyInput` if no row remains.
    """
    incomplete = np.zeros(len(table), bool)
    for column in columns:
        is_numeric = column in numeric
        incomplete |= np.fromiter((is_missing(cell, is_numeric) for cell in table[column]), bool, len(table))
    dropped = np.flatnonzero(incomplete)
    if len(dropped) and missing == "error":
        raise InputError(
            f"{table.name}: {len(dropped):,} rows have no value in {' or '.join(columns)}: "
            f"{'; '.join(_locations(table, dropped))}. To leave them out, set missing=drop."
        )
    if len(dropped) and len(dropped) == len(table):
        raise EmptyInput(f"{table.name}: no row has a value in {' and '.join(columns)}.")
    return (table.take(~incomplete) if len(dropped) else table), dropped


def is_missing(cell: Any, numeric: bool = False) -> bool:
    """Return whether a cell is None, NaN or blank text; if a number is needed (`numeric`), also the text "nan"."""
    if isinstance(cell, str):
        return not cell.strip() or (numeric and cell.strip().casefold() in MISSING_NUMBERS)
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def check(
    tables: Mapping[str, Table],
    texts: Sequence[str],
    label: str | None = None,
    classes: bool = False,
    members: Mapping[str, Iterable[str]] | None = None,
) -> Findings:
    """Check the splits of a data set.

    Args:
        tables: the rows by split.
        texts: the columns that are compared for duplicates and leaks.
        label: the column of the labels.
        classes: whether the labels are classes, which are then counted.
        members: split -> all labels of its rows, for rows with several labels.

    Raises `InputError` if the training split has a single class.
    """
    counts = {name: _counted(table[label]) for name, table in tables.items()} if classes and label else {}
    if "train" in counts and len(counts["train"]) < 2:
        single = ", ".join(counts["train"]) or "none"
        raise InputError(
            f"{tables['train'].name}: column '{label}' has a single class, {single}; at least two are needed."
        )
    counts |= {name: _counted(labels) for name, labels in (members or {}).items()}
    findings = [
        one for name, counted in counts.items() for one in _check_classes(name, counted, counts.get("train", counted))
    ]
    train: set[str] = set()
    for name in sorted(tables, key=lambda name: name != "train"):
        table, keys = tables[name], row_keys(tables[name], texts)
        findings += _check_empty(name, table, keys) + _check_duplicates(name, table, keys, label)
        if name == "train":
            train = set(keys)
        else:
            leaks = [row for row, key in enumerate(keys) if key in train and key.strip("\0")]
            findings += _finding("leak", name, table, leaks)
    return Findings(tuple(findings), counts)


MESSAGES = {
    "empty": "rows have no text",
    "duplicate": "rows have the text of an earlier row",
    "contradictory": "rows have the text of another row but a different label",
    "leak": "rows are also in train: metrics on them are too optimistic",
}


def _check_classes(split: str, counts: Mapping[str, int], train: Mapping[str, int]) -> list[Finding]:
    by_count = list(counts.items())
    shown = ", ".join(f"{label} {count:,}" for label, count in by_count[:MAX_SHOWN])
    shown += f", … {by_count[-1][0]} {by_count[-1][1]:,}" if len(by_count) > MAX_SHOWN else ""
    findings = [Finding("counts", split, sum(counts.values()), f"{len(counts)} classes: {shown}")]
    ratio = by_count[0][1] / by_count[-1][1] if by_count else 1.0
    if ratio >= IMBALANCE:
        message = f"the class {by_count[0][0]} has {ratio:,.0f} times as many rows as {by_count[-1][0]}"
        findings.append(Finding("imbalanced", split, by_count[-1][1], message))
    unseen = [label for label in counts if label not in train]
    if unseen:
        message = f"classes that are not in train: {', '.join(unseen[:MAX_SHOWN])}"
        findings.append(Finding("unseen_class", split, sum(counts[label] for label in unseen), message))
    return findings


def _counted(labels: Iterable[Any]) -> dict[str, int]:
    return dict(Counter(map(str, labels)).most_common())


def _check_empty(split: str, table: Table, keys: Sequence[str]) -> list[Finding]:
    return _finding("empty", split, table, [row for row, key in enumerate(keys) if not key.strip("\0")])


def _check_duplicates(split: str, table: Table, keys: Sequence[str], label: str | None) -> list[Finding]:
    """Return the rows whose text occurred before, and those whose text has several labels."""
    seen: set[str] = set()
    duplicates = []
    for row, key in enumerate(keys):
        if key in seen and key.strip("\0"):
            duplicates.append(row)
        seen.add(key)
    if label is None or not duplicates:
        return _finding("duplicate", split, table, duplicates)
    repeated = {keys[row] for row in duplicates}
    labels: dict[str, set[str]] = {}
    for key, value in zip(keys, table[label], strict=True):
        if key in repeated:
            labels.setdefault(key, set()).add(json.dumps(value, default=str, sort_keys=True))
    contradictory = [row for row, key in enumerate(keys) if len(labels.get(key, ())) > 1]
    return _finding("duplicate", split, table, duplicates) + _finding("contradictory", split, table, contradictory)


def _finding(kind: str, split: str, table: Table, rows: Sequence[int]) -> list[Finding]:
    if not rows:
        return []
    return [Finding(kind, split, len(rows), f"{len(rows):,} {MESSAGES[kind]}", _locations(table, rows))]


def _locations(table: Table, rows: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    more = ("…",) if len(rows) > MAX_SHOWN else ()
    return tuple(table.location(int(row)) for row in rows[:MAX_SHOWN]) + more
