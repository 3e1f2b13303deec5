"""Errors in rows are found, counted and located."""

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


def test_every_kind_of_error_is_found() -> None:
    findings = check({"test": TEST, "train": TRAIN}, ["text"], "label", classes=True)
    counts = {(one.kind, one.split): one.rows for one in findings.findings}
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
    assert findings.count("leak", "test") == 1
    assert findings.classes["train"] == {"pos": 4, "neg": 4}
    assert "test: 1 rows are also in train: metrics on them are too optimistic (test, row 0)" in findings.messages
    assert json.loads(json.dumps(findings.as_json)) == findings.as_json


def test_clean_rows_give_counts_only() -> None:
    table = Table.of({"text": ["a", "b"], "label": ["x", "y"]})
    assert [one.kind for one in check({"train": table}, ["text"], "label", classes=True).findings] == ["counts"]
    assert check({"train": table}, ["text"], "label").messages == []
    assert check({"test": table}, ["text"], "label", classes=True).classes["test"] == {"x": 1, "y": 1}


def test_imbalance_is_reported() -> None:
    table = Table.of({"text": list(map(str, range(41))), "label": ["x"] * 40 + ["y"]})
    findings = check({"train": table}, ["text"], "label", classes=True)
    assert "train: the class x has 40 times as many rows as y" in findings.messages


def test_a_single_class_is_refused() -> None:
    with pytest.raises(InputError, match="column 'label' has a single class, x"):
        check({"train": Table.of({"text": ["a", "b"], "label": ["x", "x"]})}, ["text"], "label", classes=True)


def test_pairs_are_compared_by_both_texts() -> None:
    table = Table.of({"a": ["x", "x", "x y"], "b": ["y z", "z", "z"], "score": [1, 0, 0]})
    assert check({"train": table}, ["a", "b"], "score").messages == []


def test_missing_labels_are_refused_or_dropped(tmp_path: Path) -> None:
    table = Table.of({"text": ["a", "b", "c", "d", "e"], "label": ["x", None, math.nan, " ", "nan"]})
    with pytest.raises(InputError, match="3 rows have no value in label: train, row 1; train, row 2"):
        complete_rows(table, ["label"])
    kept, dropped = complete_rows(table, ["label"], "drop")
    assert (list(kept["text"]), dropped.tolist()) == (["a", "e"], [1, 2, 3])
    assert complete_rows(kept, ["label"])[0] is kept
    with pytest.raises(EmptyInput):
        complete_rows(Table.of({"label": [None]}), ["label"], "drop")
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.csv, line 3"):
        complete_rows(read_tables(tmp_path / "rows.csv")["train"], ["label"])
