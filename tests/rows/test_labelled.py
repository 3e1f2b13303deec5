"""Roles by split, and rows held out of training."""

from __future__ import annotations

import pytest

from encodery.base.errors import InputError
from encodery.rows.columns import Roles, assign_roles
from encodery.rows.labelled import assign_by_split, has_classes, hold_out
from encodery.rows.table import Table


def pairs(count: int, name: str = "train") -> Table:
    texts = {"anchor": [f"question {n}" for n in range(count)], "positive": [f"answer {n % 7}" for n in range(count)]}
    return Table.of(texts, name)


def assign(table: Table) -> Roles:
    return assign_roles(table, ("anchor",), {}, ("positive",), {"anchor": ("anchor",), "positive": ("positive",)})


def test_an_optional_split_without_the_columns_is_left_out() -> None:
    other = Table.of({"number": [1, 2]}, "test")
    labelled = assign_by_split({"train": pairs(3), "test": other}, assign, optional=("test",))
    assert list(labelled.tables) == ["train"]
    assert labelled.roles["train"].columns == {"anchor": "anchor", "positive": "positive"}
    assert labelled.notes[0].startswith("test: left out: ")
    assert labelled.notes[1].startswith("columns: anchor = anchor")
    with pytest.raises(InputError, match="no column matches anchor"):
        assign_by_split({"train": pairs(3), "dev": other}, assign, optional=("test",))


def test_rows_are_held_out_or_stay_if_they_are_too_few() -> None:
    train = pairs(200)
    tables, notes = hold_out({"train": train}, ["anchor"], {"dev": 0.1})
    assert len(tables["train"]) + len(tables["dev"]) == 200
    assert 5 < len(tables["dev"]) < 40
    assert "rows are held out as dev rows; no training row has the same anchor" in notes[0]
    kept, notes = hold_out({"train": train}, ["anchor"], {"dev": 0.1}, min_rows=100)
    assert list(kept) == ["train"]
    assert list(kept["train"]["anchor"]) == list(train["anchor"])
    assert notes == ["no dev rows are held out: too few rows differ in anchor"]
    both, _ = hold_out({"train": train}, ["anchor"], {"dev": 0.3, "test": 0.05}, min_rows=30)
    assert set(both) == {"train", "dev"}
    assert len(both["train"]) + len(both["dev"]) == 200, "rows of a split that is too small go back to training"
    assert hold_out({"train": train, "dev": pairs(5, "dev")}, ["anchor"], {"dev": 0.1})[1] == []


def test_training_rows_that_share_a_text_are_removed_on_request() -> None:
    texts = {"anchor": [f"question {n}" for n in range(200)], "positive": [f"answer {n // 2}" for n in range(200)]}
    tables, notes = hold_out({"train": Table.of(texts)}, ["anchor"], {"dev": 0.1}, exclusive=("anchor", "positive"))
    assert not set(tables["train"]["positive"]) & set(tables["dev"]["positive"])
    assert "that share another text with them are left out" in notes[0]


def test_classes_are_several_values() -> None:
    assert has_classes(Table.of({"label": [0, 1, 1]}), "label")
    assert not has_classes(Table.of({"label": [1, 1]}), "label")
