"""Columns of equal length in little memory: a column is one run of UTF-8 bytes, decoded cell by cell when asked for.

A cell is text, None, or whatever JSON holds (numbers, lists, tables). Shapes: R rows.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike

from encodery.base.errors import InputError, nearest

TEXT, NONE, JSON = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Column(Sequence[Any]):
    """`data`: the bytes of all cells; `ends` (R,) int64: where each ends; `kinds` (R,) uint8: TEXT, NONE or JSON."""

    data: bytes
    ends: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, values: Iterable[Any]) -> Column:
        """The column of these values."""
        growing = ColumnBuilder()
        for value in values:
            growing.append(value)
        return growing.build()

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, number: int) -> Any: ...
    @overload
    def __getitem__(self, number: slice) -> list[Any]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        at = int(number) + (len(self) if number < 0 else 0)
        if not 0 <= at < len(self):
            raise IndexError(f"Row {number} of {len(self)}.")
        kind = self.kinds[at]
        if kind == NONE:
            return None
        text = self._bytes(at).decode("utf-8", "surrogatepass")
        return text if kind == TEXT else json.loads(text)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return len(self.data) + self.ends.nbytes + self.kinds.nbytes

    def take(self, numbers: np.ndarray) -> Column:
        """The cells of these rows, in their order."""
        cells = [self._bytes(int(number)) for number in numbers]
        ends = np.cumsum([len(cell) for cell in cells], dtype=np.int64) if cells else np.zeros(0, np.int64)
        return Column(b"".join(cells), ends, self.kinds[numbers])

    def concat(self, other: Column) -> Column:
        """These cells, then those of another column."""
        ends = np.concatenate([self.ends, other.ends + len(self.data)])
        return Column(self.data + other.data, ends, np.concatenate([self.kinds, other.kinds]))

    def _bytes(self, at: int) -> bytes:
        return self.data[self.ends[at - 1] if at else 0 : self.ends[at]]


class ColumnBuilder:
    """A column while it is read."""

    def __init__(self, num_empty: int = 0) -> None:
        self._data = bytearray()
        self._ends = array("q", [0]) * num_empty
        self._kinds = bytearray([NONE]) * num_empty

    def __len__(self) -> int:
        return len(self._kinds)

    def append(self, value: Any) -> None:
        """One more cell. What JSON does not know, such as a date, becomes text."""
        if isinstance(value, str):
            self._data += value.encode("utf-8", "surrogatepass")
        elif value is not None:
            self._data += json.dumps(value, default=_plain, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._kinds.append(TEXT if isinstance(value, str) else NONE if value is None else JSON)
        self._ends.append(len(self._data))

    def build(self) -> Column:
        """The column; this is not to be used any more."""
        kinds = np.frombuffer(bytes(self._kinds), np.uint8)
        return Column(bytes(self._data), np.frombuffer(self._ends, np.int64), kinds)


@dataclass(frozen=True, eq=False)
class RowLocations:
    """Where rows come from: `file` (R,) into `files`, `line` (R,) counted from 1, of what `unit` says."""

    files: tuple[str, ...]
    file: np.ndarray
    line: np.ndarray
    unit: str = "line"

    def __getitem__(self, number: int) -> str:
        return f"{self.files[int(self.file[number])]}, {self.unit} {int(self.line[number])}"

    def take(self, numbers: np.ndarray) -> RowLocations:
        """Those of some rows."""
        return RowLocations(self.files, self.file[numbers], self.line[numbers], self.unit)

    def concat(self, other: RowLocations) -> RowLocations:
        """These, then others."""
        file = np.concatenate([self.file, other.file + len(self.files)])
        return RowLocations(self.files + other.files, file, np.concatenate([self.line, other.line]), self.unit)


@dataclass(frozen=True, eq=False)
class Table:
    """R rows. `name`: the split; `places`: where they come from; `notes`: what was remarked when reading them."""

    name: str
    columns: Mapping[str, Column]
    locations: RowLocations | None = None
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, columns: Mapping[str, Iterable[Any]], name: str = "train") -> Table:
        """A table of plain values. Raises `InputError` for columns of different length."""
        found = {column: Column.of(values) for column, values in columns.items()}
        lengths = {column: len(values) for column, values in found.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{column} {length}" for column, length in lengths.items())
            raise InputError(f"The columns are of different length: {told}.")
        return cls(name, found)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in their order."""
        return tuple(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> Column:
        """Raises `InputError` for a column that is not there, with the nearest."""
        if column not in self.columns:
            raise InputError(
                f"{self.name}: has no column '{column}'.{nearest(column, self.names)} It has {', '.join(self.names)}."
            )
        return self.columns[column]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows, each as column -> cell."""
        return (self.row(number) for number in range(len(self)))

    def row(self, number: int) -> dict[str, Any]:
        """One row."""
        return {name: column[number] for name, column in self.columns.items()}

    def location(self, number: int) -> str:
        """File and line of a row, for messages; its number where it comes from no file."""
        return self.locations[number] if self.locations is not None else f"{self.name}, row {number}"

    def take(self, numbers: ArrayLike, name: str | None = None) -> Table:
        """The rows of these numbers, or where a mask (R,) says so."""
        at = np.asarray(numbers)
        at = np.flatnonzero(at) if at.dtype == bool else at.astype(np.int64)
        columns = {column: cells.take(at) for column, cells in self.columns.items()}
        places = self.locations.take(at) if self.locations is not None else None
        return Table(self.name if name is None else name, columns, places, self.warnings)

    def without(self, *names: str) -> Table:
        """All columns but these."""
        columns = {name: column for name, column in self.columns.items() if name not in names}
        return Table(self.name, columns, self.locations, self.warnings)

    def select(self, columns: Mapping[str, str]) -> Table:
        """Some columns alone, under other names: name -> column. Raises `InputError` for one that is not there."""
        return Table(self.name, {name: self[column] for name, column in columns.items()}, self.locations, self.warnings)

    def concat(self, other: Table) -> Table:
        """These rows, then another's; a column that one of them lacks is None there."""
        columns = {}
        for name in dict.fromkeys((*self.names, *other.names)):
            one, two = self.columns.get(name), other.columns.get(name)
            first = one if one is not None else ColumnBuilder(len(self)).build()
            columns[name] = first.concat(two if two is not None else ColumnBuilder(len(other)).build())
        places = self.locations.concat(other.locations) if self.locations and other.locations else None
        return Table(self.name, columns, places, tuple(dict.fromkeys((*self.warnings, *other.warnings))))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(column.nbytes for column in self.columns.values())


def table_from_rows(name: str, source: str, rows: Iterable[tuple[int, Mapping[str, Any]]], unit: str = "line") -> Table:
    """The table of rows that come with their line; a key that a row lacks is None there."""
    growing: dict[str, ColumnBuilder] = {}
    lines = array("q")
    for line, row in rows:
        for key in row:
            if key not in growing:
                growing[key] = ColumnBuilder(len(lines))
        for key, column in growing.items():
            column.append(row.get(key))
        lines.append(line)
    places = RowLocations((source,), np.zeros(len(lines), np.int32), np.frombuffer(lines, np.int64), unit)
    return Table(name, {key: column.build() for key, column in growing.items()}, places)


def _plain(value: Any) -> Any:
    """A value of numpy as Python's own; bytes that are no text as hexadecimal digits; anything else as text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
