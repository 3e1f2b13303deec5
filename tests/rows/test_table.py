"""Tables return the values that were stored, and use little memory."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest

from encodery.base.errors import InputError
from encodery.rows.table import Column, ColumnBuilder, Table, table_from_rows

CELLS = ["", "a", "е́ 👩‍👩‍👧 שלום", "\ud800", None, 1, 2.5, True, ["x", None], {"start": 3}, "null", "7"]


def test_cells_round_trip() -> None:
    column = Column.of(CELLS)
    assert list(column) == CELLS
    assert [type(cell) for cell in column] == [type(cell) for cell in CELLS]
    assert column[-1] == "7"
    assert column[1:4] == CELLS[1:4]
    assert column.index("a") == 1
    with pytest.raises(IndexError):
        column[len(CELLS)]


def test_nan_and_other_types() -> None:
    nan, number, array, date = Column.of([math.nan, np.int64(3), np.arange(2), datetime.date(2020, 1, 2)])
    assert math.isnan(nan)
    assert (number, array, date) == (3, [0, 1], "2020-01-02")


def test_take_and_concat_keep_cells_and_locations() -> None:
    table = table_from_rows(
        "train", "a.csv", [(2, {"text": "one"}), (3, {"text": "two", "label": "x"}), (9, {"text": ""})]
    )
    assert list(table["label"]) == [None, "x", None]
    assert table.location(2) == "a.csv, line 9"
    some = table.take([2, 1])
    assert [row["text"] for row in some] == ["", "two"]
    assert some.location(0) == "a.csv, line 9"
    assert list(table.take(np.array([False, True, False]))["text"]) == ["two"]
    assert len(table.take([])) == 0
    both = table.concat(table_from_rows("train", "b.csv", [(5, {"text": "three", "extra": [1]})]))
    assert both.names == ("text", "label", "extra")
    assert both.row(3) == {"text": "three", "label": None, "extra": [1]}
    assert both.location(3) == "b.csv, line 5"
    assert both.row(0) == {"text": "one", "label": None, "extra": None}


def test_an_unknown_column_names_the_nearest() -> None:
    table = Table.of({"sentence": ["a"], "label": ["b"]})
    with pytest.raises(InputError, match="Did you mean 'sentence'"):
        table["sentense"]
    assert "label" in table
    assert table.without("label").names == ("sentence",)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="a 1, b 2"):
        Table.of({"a": ["x"], "b": ["x", "y"]})


def test_empty() -> None:
    assert list(ColumnBuilder().build()) == []
    assert list(ColumnBuilder(2).build()) == [None, None]
    assert len(Table.of({})) == 0
