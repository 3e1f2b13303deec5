"""What is wrong with rows is found, counted and placed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from encodery.base.errors import EmptyInput, InputError
from encodery.rows.check import check, complete_rows
from encodery.rows.read import read_tables
from encodery.rows.table import Table

TRAIN = Table.of(
    {
        "text": ["Good", "bad", "GOOD ", "fine", "", "שלום", "good", "bad"],
        "label": ["pos", "neg", "pos", "pos", "neg", "pos", "neg", "neg"],
    }
)
TEST = Table.of({"text": ["ＢＡＤ", "new", "", " "], "label": ["neg", "odd", "pos", "pos"]}, "test")


def test_everything_is_found() -> None:
    found = check({"test": TEST, "train": TRAIN}, ["text"], "label", classes=True)
    counts = {(one.kind, one.split): one.rows for one in found.findings}
    assert counts == {
        ("counts", "train"): 8,
        ("counts", "test"): 4,
        ("unseen_class", "test"): 1,
        ("empty", "train"): 1,
        ("duplicate", "train"): 3,
        ("contradictory", "train"): 3,
        ("empty", "test"): 2,
        ("leak", "test"): 1,
    }
    assert found.count("leak", "test") == 1
    assert found.classes["train"] == {"pos": 4, "neg": 4}
    assert "test: 1 rows stand in train too: figures on them flatter (test, row 0)" in found.messages
    assert json.loads(json.dumps(found.as_json)) == found.as_json


def test_clean_rows_give_counts_only() -> None:
    table = Table.of({"text": ["a", "b"], "label": ["x", "y"]})
    assert [one.kind for one in check({"train": table}, ["text"], "label", classes=True).findings] == ["counts"]
    assert check({"train": table}, ["text"], "label").messages == []
    assert check({"test": table}, ["text"], "label", classes=True).classes["test"] == {"x": 1, "y": 1}


def test_imbalance_is_told() -> None:
    table = Table.of({"text": list(map(str, range(41))), "label": ["x"] * 40 + ["y"]})
    found = check({"train": table}, ["text"], "label", classes=True)
    assert "train: the class x has 40 times the rows of y" in found.messages


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="a single class in 'label', x"):
        check({"train": Table.of({"text": ["a", "b"], "label": ["x", "x"]})}, ["text"], "label", classes=True)


def test_pairs_are_the_same_by_both_texts() -> None:
    table = Table.of({"a": ["x", "x", "x y"], "b": ["y z", "z", "z"], "score": [1, 0, 0]})
    assert check({"train": table}, ["a", "b"], "score").messages == []


def test_missing_answers_are_refused_or_dropped(tmp_path: Path) -> None:
    table = Table.of({"text": ["a", "b", "c", "d", "e"], "label": ["x", None, math.nan, " ", "nan"]})
    with pytest.raises(InputError, match="3 rows have nothing in label: train, row 1; train, row 2"):
        complete_rows(table, ["label"])
    kept, gone = complete_rows(table, ["label"], "drop")
    assert (list(kept["text"]), gone.tolist()) == (["a", "e"], [1, 2, 3])
    assert complete_rows(kept, ["label"])[0] is kept
    with pytest.raises(EmptyInput):
        complete_rows(Table.of({"label": [None]}), ["label"], "drop")
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.csv, line 3"):
        complete_rows(read_tables(tmp_path / "rows.csv")["train"], ["label"])
