"""Rows of comma- or tab-separated files: first line the names; what the file does with quotes is found out.

A .csv may be separated by comma, semicolon, tab or bar: by the one that its first line has most of, if the next lines
split alike. A .tsv whose lines all split alike has no quoting, unless each cell that opens with a quote ends with one.
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
HEAD = 50
LONGEST = 1 << 30  # Characters of a cell; the csv module's own limit is 131,072.


class Dialect(NamedTuple):
    """How the cells of a file are told apart."""

    separator: str
    quoted: bool

    def cells(self, lines: Iterator[str]) -> Any:
        """A reader of the csv module."""
        if self.quoted:
            return csv.reader(lines, delimiter=self.separator, strict=True)
        return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=True)


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with the line it ends on. Raises `InputError` naming file and line, `EmptyInput`."""
    before = csv.field_size_limit(LONGEST)
    try:
        with open_text(path, "") as (text, _):
            dialect = dialect_of(path, text)
        with open_text(path, "") as (text, _):
            yield from _rows(path, dialect.cells(iter(text)))
    finally:
        csv.field_size_limit(before)


def dialect_of(path: Path, text: IO[str]) -> Dialect:
    """What the file shows of itself."""
    if file_format(path) == ".tsv":
        return Dialect("\t", not _unquoted(text, "\t"))
    head = list(itertools.islice(text, HEAD))
    if not head:
        return Dialect(",", True)
    counts = {separator: head[0].count(separator) for separator in SEPARATORS}
    usual = sorted(SEPARATORS, key=lambda one: -counts[one])
    fitting = (one for one in usual if counts[one] and _alike(head, Dialect(one, True)))
    return Dialect(next(fitting, usual[0]), True)


def _rows(path: Path, reader: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    names: list[str] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: the quotes do not match up: {error}.") from error
        if cells is None:
            break
        where = f"{path}, line {reader.line_num}"
        if not cells or (not names and not any(cells)):
            continue
        if not names:
            names = _names(cells, where)
        elif len(cells) != len(names):
            raise InputError(f"{where}: has {len(cells)} cells, the first line names {len(names)} columns.")
        else:
            yield reader.line_num, dict(zip(names, cells, strict=True))
    if not names:
        raise EmptyInput(f"{path}: is empty.")


def _names(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() or f"column{place}" for place, cell in enumerate(cells, 1)]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise InputError(f"{where}: names a column twice: {', '.join(double)}.")
    return names


def _alike(head: list[str], dialect: Dialect) -> bool:
    """Whether the first lines split into equally many cells; a cell cut off by the end of the sample is let pass."""
    widths = []
    try:
        for cells in dialect.cells(iter(head)):
            widths += [len(cells)] if cells else []
    except csv.Error:
        if not widths:
            return False
    whole = widths if len(head) < HEAD else widths[:-1] or widths
    return len(set(whole)) == 1 and whole[0] > 1


def _unquoted(text: IO[str], separator: str) -> bool:
    """Whether quotes are only characters here: all lines split alike, and some cell only opens with one."""
    width, quoted, loose = 0, False, False
    for line in text:
        cells = line.rstrip("\r\n").split(separator)
        if cells == [""]:
            continue
        width = width or len(cells)
        if len(cells) != width:
            return False
        for cell in cells:
            if cell.startswith('"'):
                whole = len(cell) > 1 and cell.endswith('"') and '"' not in cell[1:-1].replace('""', "")
                quoted, loose = quoted or whole, loose or not whole
    return loose or not quoted
