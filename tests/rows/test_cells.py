"""Cells as texts and numbers, and where those stand that are neither."""

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
def test_what_is_no_number_is_named(cell: Any) -> None:
    with pytest.raises(InputError, match=r"train, row 1: column 'score' is .*, a number is needed"):
        numbers(Table.of({"score": [1.0, cell]}), "score")


def test_what_is_no_text_is_named() -> None:
    with pytest.raises(InputError, match="train, row 1: column 'text' is empty"):
        texts(Table.of({"text": ["a", None]}), "text")
    with pytest.raises(InputError, match="train, row 0: column 'text' is no text but int"):
        texts(Table.of({"text": [3]}), "text")
