"""Read the rows of comma- or tab-separated files with a header; the use of quotes is detected.

A .csv file may be separated by comma, semicolon, tab or bar: the most frequent one in the first line that splits the
next lines into equally many cells. A .tsv file whose lines all have equally many cells has no quoting, unless every
cell that starts with a quote also ends with one.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from encodery.base.errors import EmptyInput, InputError
from encodery.rows.text_files import file_format, open_text

SEPARATORS = (",", ";", "\t", "|")
HEAD_LINES = 50
MAX_CELL_LENGTH = 1 << 30  # Characters; the default of the csv module is 131,072.


class Dialect(NamedTuple):
    """How the cells of a file are separated and quoted."""

    separator: str
    quoted: bool

    def cells(self, lines: Iterator[str]) -> Any:
        """Return a reader of the csv module."""
        if self.quoted:
            return csv.reader(lines, delimiter=self.separator, strict=True)
        return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=True)


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number of its last line, row). Raises `InputError` naming file and line, and `EmptyInput`."""
    before = csv.field_size_limit(MAX_CELL_LENGTH)
    try:
        with open_text(path, "") as (text, _):
            dialect = dialect_of(path, text)
        with open_text(path, "") as (text, _):
            yield from _rows(path, dialect.cells(iter(text)))
    finally:
        csv.field_size_limit(before)


def dialect_of(path: Path, text: IO[str]) -> Dialect:
    """Detect the dialect of a file from its text."""
    if file_format(path) == ".tsv":
        return Dialect("\t", not _unquoted(text, "\t"))
    head = list(itertools.islice(text, HEAD_LINES))
    if not head:
        return Dialect(",", True)
    counts = {separator: head[0].count(separator) for separator in SEPARATORS}
    by_count = sorted(SEPARATORS, key=lambda separator: -counts[separator])
    matching = (one for one in by_count if counts[one] and _has_equal_widths(head, Dialect(one, True)))
    return Dialect(next(matching, by_count[0]), True)


def _rows(path: Path, reader: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    names: list[str] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: the quotes are not balanced: {error}.") from error
        if cells is None:
            break
        where = f"{path}, line {reader.line_num}"
        if not cells or (not names and not any(cells)):
            continue
        if not names:
            names = _names(cells, where)
        elif len(cells) != len(names):
            raise InputError(f"{where}: has {len(cells)} cells, but the header has {len(names)} columns.")
        else:
            yield reader.line_num, dict(zip(names, cells, strict=True))
    if not names:
        raise EmptyInput(f"{path}: is empty.")


def _names(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() or f"column{number}" for number, cell in enumerate(cells, 1)]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise InputError(f"{where}: the header names a column twice: {', '.join(double)}.")
    return names


def _has_equal_widths(head: list[str], dialect: Dialect) -> bool:
    """Return whether the first lines have equally many cells; a cell cut off by the end of the sample is ignored."""
    widths = []
    try:
        for cells in dialect.cells(iter(head)):
            widths += [len(cells)] if cells else []
    except csv.Error:
        if not widths:
            return False
    complete = widths if len(head) < HEAD_LINES else widths[:-1] or widths
    return len(set(complete)) == 1 and complete[0] > 1


def _unquoted(text: IO[str], separator: str) -> bool:
    """Return whether quotes are ordinary characters: all lines have as many cells, and one only starts with one."""
    width, quoted, unbalanced = 0, False, False
    for line in text:
        cells = line.rstrip("\r\n").split(separator)
        if cells == [""]:
            continue
        width = width or len(cells)
        if len(cells) != width:
            return False
        for cell in cells:
            if cell.startswith('"'):
                balanced = len(cell) > 1 and cell.endswith('"') and '"' not in cell[1:-1].replace('""', "")
                quoted, unbalanced = quoted or balanced, unbalanced or not balanced
    return unbalanced or not quoted
