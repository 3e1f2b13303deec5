"""Tables in little memory: a column is one block of UTF-8 bytes, decoded cell by cell when it is read.

A cell is text, None, or a JSON value (number, list, object). Shapes: R rows.
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
    """A column: the bytes of all cells, the end of each (R,) int64, and its kind (R,) uint8: TEXT, NONE or JSON."""

    data: bytes
    ends: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, values: Iterable[Any]) -> Column:
        """Return a column of values."""
        builder = ColumnBuilder()
        for value in values:
            builder.append(value)
        return builder.build()

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, number: int) -> Any: ...
    @overload
    def __getitem__(self, number: slice) -> list[Any]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self[index] for index in range(*number.indices(len(self)))]
        index = int(number) + (len(self) if number < 0 else 0)
        if not 0 <= index < len(self):
            raise IndexError(f"Row {number} does not exist: there are {len(self)} rows.")
        kind = self.kinds[index]
        if kind == NONE:
            return None
        text = self._bytes(index).decode("utf-8", "surrogatepass")
        return text if kind == TEXT else json.loads(text)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return len(self.data) + self.ends.nbytes + self.kinds.nbytes

    def take(self, numbers: np.ndarray) -> Column:
        """Return the cells of the given rows, in the given order."""
        cells = [self._bytes(int(number)) for number in numbers]
        ends = np.cumsum([len(cell) for cell in cells], dtype=np.int64) if cells else np.zeros(0, np.int64)
        return Column(b"".join(cells), ends, self.kinds[numbers])

    def concat(self, other: Column) -> Column:
        """Return these cells, followed by those of another column."""
        ends = np.concatenate([self.ends, other.ends + len(self.data)])
        return Column(self.data + other.data, ends, np.concatenate([self.kinds, other.kinds]))

    def _bytes(self, index: int) -> bytes:
        return self.data[self.ends[index - 1] if index else 0 : self.ends[index]]


class ColumnBuilder:
    """A column that is being read; it starts with `num_empty` cells that are None."""

    def __init__(self, num_empty: int = 0) -> None:
        self._data = bytearray()
        self._ends = array("q", [0]) * num_empty
        self._kinds = bytearray([NONE]) * num_empty

    def __len__(self) -> int:
        return len(self._kinds)

    def append(self, value: Any) -> None:
        """Append a cell. A value that is not JSON, such as a date, becomes text."""
        if isinstance(value, str):
            self._data += value.encode("utf-8", "surrogatepass")
        elif value is not None:
            self._data += json.dumps(value, default=_jsonable, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._kinds.append(TEXT if isinstance(value, str) else NONE if value is None else JSON)
        self._ends.append(len(self._data))

    def build(self) -> Column:
        """Return the column. The builder must not be used afterwards."""
        kinds = np.frombuffer(bytes(self._kinds), np.uint8)
        return Column(bytes(self._data), np.frombuffer(self._ends, np.int64), kinds)


@dataclass(frozen=True, eq=False)
class RowLocations:
    """The origin of rows: `file` (R,), an index into `files`, and `line` (R,), counted from 1 in the given `unit`."""

    files: tuple[str, ...]
    file: np.ndarray
    line: np.ndarray
    unit: str = "line"

    def __getitem__(self, number: int) -> str:
        return f"{self.files[int(self.file[number])]}, {self.unit} {int(self.line[number])}"

    def take(self, numbers: np.ndarray) -> RowLocations:
        """Return the locations of the given rows."""
        return RowLocations(self.files, self.file[numbers], self.line[numbers], self.unit)

    def concat(self, other: RowLocations) -> RowLocations:
        """Return these locations, followed by others."""
        file = np.concatenate([self.file, other.file + len(self.files)])
        return RowLocations(self.files + other.files, file, np.concatenate([self.line, other.line]), self.unit)


@dataclass(frozen=True, eq=False)
class Table:
    """A table of R rows. `name`: the split; `locations`: the origin of the rows; `warnings`: from reading them."""

    name: str
    columns: Mapping[str, Column]
    locations: RowLocations | None = None
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, columns: Mapping[str, Iterable[Any]], name: str = "train") -> Table:
        """Return a table of values by column. Raises `InputError` for columns of different lengths."""
        built = {column: Column.of(values) for column, values in columns.items()}
        lengths = {column: len(values) for column, values in built.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{column} {length}" for column, length in lengths.items())
            raise InputError(f"The columns have different lengths: {listed}.")
        return cls(name, built)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> Column:
        """Return a column. Raises `InputError` for an unknown name, with the nearest."""
        if column not in self.columns:
            raise InputError(
                f"{self.name}: has no column '{column}'.{nearest(column, self.names)} Columns: {', '.join(self.names)}."
            )
        return self.columns[column]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, each as column -> cell."""
        return (self.row(number) for number in range(len(self)))

    def row(self, number: int) -> dict[str, Any]:
        """Return a row as column -> cell."""
        return {name: column[number] for name, column in self.columns.items()}

    def location(self, number: int) -> str:
        """Return the file and line of a row, for messages, or its number if it does not come from a file."""
        return self.locations[number] if self.locations is not None else f"{self.name}, row {number}"

    def take(self, numbers: ArrayLike, name: str | None = None) -> Table:
        """Return the rows with the given numbers, or those for which a mask (R,) is true."""
        indices = np.asarray(numbers)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        columns = {column: cells.take(indices) for column, cells in self.columns.items()}
        locations = self.locations.take(indices) if self.locations is not None else None
        return Table(self.name if name is None else name, columns, locations, self.warnings)

    def without(self, *names: str) -> Table:
        """Return the table without the given columns."""
        columns = {name: column for name, column in self.columns.items() if name not in names}
        return Table(self.name, columns, self.locations, self.warnings)

    def select(self, columns: Mapping[str, str]) -> Table:
        """Return a table of some columns under new names: name -> column. Raises `InputError` for an unknown column."""
        return Table(self.name, {name: self[column] for name, column in columns.items()}, self.locations, self.warnings)

    def concat(self, other: Table) -> Table:
        """Return these rows, followed by those of another table. A column that one lacks is None in its rows."""
        columns = {}
        for name in dict.fromkeys((*self.names, *other.names)):
            one, two = self.columns.get(name), other.columns.get(name)
            first = one if one is not None else ColumnBuilder(len(self)).build()
            columns[name] = first.concat(two if two is not None else ColumnBuilder(len(other)).build())
        locations = self.locations.concat(other.locations) if self.locations and other.locations else None
        return Table(self.name, columns, locations, tuple(dict.fromkeys((*self.warnings, *other.warnings))))

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(column.nbytes for column in self.columns.values())


def table_from_rows(name: str, source: str, rows: Iterable[tuple[int, Mapping[str, Any]]], unit: str = "line") -> Table:
    """Return a table of (line number, row) pairs; a key that a row lacks is None there.

    Args:
        source: the file, for messages.
        unit: what the numbers count, "line" or "row".
    """
    builders: dict[str, ColumnBuilder] = {}
    lines = array("q")
    for line, row in rows:
        for key in row:
            if key not in builders:
                builders[key] = ColumnBuilder(len(lines))
        for key, column in builders.items():
            column.append(row.get(key))
        lines.append(line)
    locations = RowLocations((source,), np.zeros(len(lines), np.int32), np.frombuffer(lines, np.int64), unit)
    return Table(name, {key: column.build() for key, column in builders.items()}, locations)


def _jsonable(value: Any) -> Any:
    """Return a numpy value as a Python value, bytes as hexadecimal digits, and anything else as text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
