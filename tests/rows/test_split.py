"""Splits by hash: the same at every call, equal texts together, every class in training."""

from __future__ import annotations

import random

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.rows.split import fill_missing_splits, normalise_text, remove_overlap, row_keys, split_rows
from encodery.rows.table import Table


def test_normal() -> None:
    assert normalise_text("  Ｆull\u00a0WIDTH\n e\u0301") == "full width é"
    assert normalise_text("STRASSE") == normalise_text("straße")


def test_shares_are_kept_and_every_row_falls_somewhere() -> None:
    found = [f"text {number}" for number in range(5000)]
    split = split_rows(found)
    assert [len(split[name]) / 5000 for name in ("train", "dev", "test")] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(5000))
    assert split_rows(found, seed=1)["dev"].tolist() != split["dev"].tolist()


def test_a_text_keeps_its_side_whatever_else_is_there() -> None:
    found = [f"text {number % 300}" for number in range(1000)]
    sides = {found[row]: name for name, rows in split_rows(found).items() for row in rows}
    for name, rows in split_rows(found).items():
        assert {found[row] for row in rows} == {text for text, side in sides.items() if side == name}
    shuffled = random.Random(0).sample(found, 500)
    for name, rows in split_rows(shuffled).items():
        assert all(sides[shuffled[row]] == name for row in rows)


def test_every_class_is_in_train() -> None:
    found = [f"text {number}" for number in range(400)]
    labels = [f"class {number // 2}" for number in range(400)]
    assert {labels[row] for row in split_rows(found)["train"]} < set(labels)
    assert {labels[row] for row in split_rows(found, labels)["train"]} == set(labels)
    assert len(split_rows(found, labels)["dev"]) > 10


def test_only_what_is_missing_is_taken_from_train() -> None:
    train = Table.of({"text": [f"Text {number}" for number in range(200)], "label": [0, 1] * 100})
    test = Table.of({"text": ["a"], "label": [1]}, "test")
    found = fill_missing_splits({"train": train, "test": test}, ["text"], "label")
    assert {name: len(table) for name, table in found.items()}["test"] == 1
    assert len(found["train"]) + len(found["dev"]) == 200
    assert found["dev"].name == "dev"
    assert not set(row_keys(found["train"], ["text"])) & set(row_keys(found["dev"], ["text"]))
    assert fill_missing_splits(found, ["text"]) == found
    assert fill_missing_splits({"test": test}, ["text"]) == {"test": test}


@pytest.mark.parametrize("shares", [{"train": 0.0, "dev": 1.0}, {"train": 1.0, "dev": -0.1}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="shares"):
        split_rows(["a"], fractions=shares)


def test_nothing_is_taken_where_nothing_would_be_left() -> None:
    shares = {"train": 0.9, "dev": 0.1}
    alone = [
        text for text in (f"text {number}" for number in range(60)) if len(split_rows([text], None, shares)["dev"])
    ]
    assert alone
    for text in alone:
        train = Table.of({"text": [text] * 5})
        assert fill_missing_splits({"train": train}, ["text"], None, shares) == {"train": train}


def test_training_rows_that_share_a_text_with_held_out_ones_go() -> None:
    train = Table.of({"a": ["one", "two", "Three", "x", "y", "z"], "b": ["p", "held", "q", "x", "y", "z"]})
    held = Table.of({"a": ["three ", "held"], "b": ["r", "s"]}, "dev")
    assert list(remove_overlap(train, held, ["a", "b"])["a"]) == ["one", "x", "y", "z"]
    everywhere = Table.of({"a": ["three", "held"], "b": ["x", "one"]}, "dev")
    assert len(remove_overlap(train.take(np.arange(4)), everywhere, ["a", "b"])) == 4, "fewer than half would be left"
