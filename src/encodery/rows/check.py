"""What is wrong with labelled rows: missing answers, empty texts, repeats, contradictions, leaks, lone or rare classes.

Two texts are the same if they are after case, width and blanks are put aside. Shapes: R rows.
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

SHOWN = 5
NO_NUMBER = ("nan", "na", "n/a", "null", "none")
UNEVEN = 10.0  # The largest class over the smallest, from which on it is remarked.


@dataclass(frozen=True)
class Finding:
    """`kind`: counts, uneven, unknown, empty, repeated, contradicting or leaking; `first`: where some rows are."""

    kind: str
    split: str
    rows: int
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """`found`, the counts first; `classes`: split -> class -> rows, the most frequent first."""

    findings: tuple[Finding, ...]
    classes: Mapping[str, Mapping[str, int]]

    @property
    def messages(self) -> list[str]:
        """In plain words, one line each."""
        return [
            f"{one.split}: {one.message}" + (f" ({'; '.join(one.examples)})" if one.examples else "")
            for one in self.findings
        ]

    def count(self, kind: str, split: str) -> int:
        """Rows of a kind of finding in a split."""
        return sum(one.rows for one in self.findings if (one.kind, one.split) == (kind, split))

    @property
    def as_json(self) -> dict[str, Any]:
        """For reports: plain values only."""
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
    """The rows where no cell of these columns is missing (None, NaN, empty), and the numbers of those left out. In
    `numeric` columns the text "nan", "na" or "null" is missing too.

    Raises `InputError` naming the rows, unless they are to be dropped; `EmptyInput` where none is left.
    """
    lacking = np.zeros(len(table), bool)
    for column in columns:
        numbers = column in numeric
        lacking |= np.fromiter((is_missing(cell, numbers) for cell in table[column]), bool, len(table))
    gone = np.flatnonzero(lacking)
    if len(gone) and missing == "error":
        raise InputError(
            f"{table.name}: {len(gone):,} rows have nothing in {' or '.join(columns)}: "
            f"{'; '.join(_first(table, gone))}. Leave them out: missing=drop."
        )
    if len(gone) and len(gone) == len(table):
        raise EmptyInput(f"{table.name}: no row has something in {' and '.join(columns)}.")
    return (table.take(~lacking) if len(gone) else table), gone


def is_missing(cell: Any, numeric: bool = False) -> bool:
    """Whether a cell is None, NaN or blank text; the word "nan" is text, unless a `number` is wanted."""
    if isinstance(cell, str):
        return not cell.strip() or (numeric and cell.strip().casefold() in NO_NUMBER)
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def check(
    tables: Mapping[str, Table],
    texts: Sequence[str],
    label: str | None = None,
    classes: bool = False,
    members: Mapping[str, Iterable[str]] | None = None,
) -> Findings:
    """What is found in the splits, by the columns read (`texts`) and the answer (`label`).

    `classes`: the answers are classes, to be counted; or `members`: split -> the labels of which its answers are sets.
    Raises `InputError` where training has a single class.
    """
    counts = {name: _counted(table[label]) for name, table in tables.items()} if classes and label else {}
    if "train" in counts and len(counts["train"]) < 2:
        lone = ", ".join(counts["train"]) or "none"
        raise InputError(f"{tables['train'].name}: has a single class in '{label}', {lone}: there is nothing to learn.")
    counts |= {name: _counted(labels) for name, labels in (members or {}).items()}
    found = [
        one for name, counted in counts.items() for one in _of_classes(name, counted, counts.get("train", counted))
    ]
    known: set[str] = set()
    for name in sorted(tables, key=lambda name: name != "train"):
        table, read = tables[name], row_keys(tables[name], texts)
        found += _empty(name, table, read) + _repeated(name, table, read, label)
        if name == "train":
            known = set(read)
        else:
            found += _finding(
                "leak", name, table, [i for i, key in enumerate(read) if key in known and key.strip("\0")]
            )
    return Findings(tuple(found), counts)


WORDS = {
    "empty": "rows have no text",
    "duplicate": "rows repeat the text of an earlier one",
    "contradictory": "rows have the text of another and a different answer",
    "leak": "rows stand in train too: figures on them flatter",
}


def _of_classes(split: str, counts: Mapping[str, int], train: Mapping[str, int]) -> list[Finding]:
    named = list(counts.items())
    told = ", ".join(f"{label} {count:,}" for label, count in named[:SHOWN])
    told += f", … {named[-1][0]} {named[-1][1]:,}" if len(named) > SHOWN else ""
    found = [Finding("counts", split, sum(counts.values()), f"{len(counts)} classes: {told}")]
    ratio = named[0][1] / named[-1][1] if named else 1.0
    if ratio >= UNEVEN:
        words = f"the class {named[0][0]} has {ratio:,.0f} times the rows of {named[-1][0]}"
        found.append(Finding("imbalanced", split, named[-1][1], words))
    strange = [label for label in counts if label not in train]
    if strange:
        words = f"classes that training lacks: {', '.join(strange[:SHOWN])}"
        found.append(Finding("unseen_class", split, sum(counts[label] for label in strange), words))
    return found


def _counted(labels: Iterable[Any]) -> dict[str, int]:
    return dict(Counter(map(str, labels)).most_common())


def _empty(split: str, table: Table, read: Sequence[str]) -> list[Finding]:
    return _finding("empty", split, table, [row for row, key in enumerate(read) if not key.strip("\0")])


def _repeated(split: str, table: Table, read: Sequence[str], label: str | None) -> list[Finding]:
    """Rows whose text stood before, and those whose text has several answers."""
    seen: set[str] = set()
    again = []
    for row, key in enumerate(read):
        if key in seen and key.strip("\0"):
            again.append(row)
        seen.add(key)
    if label is None or not again:
        return _finding("duplicate", split, table, again)
    double = {read[row] for row in again}
    said: dict[str, set[str]] = {}
    for key, answer in zip(read, table[label], strict=True):
        if key in double:
            said.setdefault(key, set()).add(json.dumps(answer, default=str, sort_keys=True))
    apart = [row for row, key in enumerate(read) if len(said.get(key, ())) > 1]
    return _finding("duplicate", split, table, again) + _finding("contradictory", split, table, apart)


def _finding(kind: str, split: str, table: Table, rows: Sequence[int]) -> list[Finding]:
    if not rows:
        return []
    return [Finding(kind, split, len(rows), f"{len(rows):,} {WORDS[kind]}", _first(table, rows))]


def _first(table: Table, rows: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    more = ("…",) if len(rows) > SHOWN else ()
    return tuple(table.location(int(row)) for row in rows[:SHOWN]) + more
