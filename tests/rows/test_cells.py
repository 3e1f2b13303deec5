"""Cells as texts and numbers; invalid cells are reported with their location."""

from __future__ import annotations

from typing import Any

import pytest

from encodery.base.errors import InputError
from encodery.rows.cells import numbers, texts
from encodery.rows.table import Table


def test_texts_and_numbers() -> None:
    table = Table.of({"text": ["a", ""], "score": [1, " 2.5 "]})
    assert texts(table, "text") == ["a", ""]
    assert numbers(table, "score").tolist() == [1.0, 2.5]


@pytest.mark.parametrize("cell", [None, "high", "nan", "inf", [1], float("nan")])
def test_a_cell_that_is_not_a_number_is_reported(cell: Any) -> None:
    with pytest.raises(InputError, match=r"train, row 1: column 'score' is .*, a number is needed"):
        numbers(Table.of({"score": [1.0, cell]}), "score")


def test_a_cell_that_is_not_text_is_reported() -> None:
    with pytest.raises(InputError, match="train, row 1: column 'text' is empty"):
        texts(Table.of({"text": ["a", None]}), "text")
    with pytest.raises(InputError, match="train, row 0: column 'text' is not text but int"):
        texts(Table.of({"text": [3]}), "text")
