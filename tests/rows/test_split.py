"""Splits by hash: the same at every call, equal texts in one split, every class in train."""

from __future__ import annotations

import random

import numpy as np
import pytest

from encodery.base.errors import SettingsError
from encodery.rows.split import fill_missing_splits, normalise_text, remove_overlap, row_keys, split_rows
from encodery.rows.table import Table


def test_normalised_texts() -> None:
    assert normalise_text("  Ｆull\u00a0WIDTH\n e\u0301") == "full width é"
    assert normalise_text("STRASSE") == normalise_text("straße")


def test_fractions_are_kept_and_every_row_is_in_one_split() -> None:
    texts = [f"text {number}" for number in range(5000)]
    split = split_rows(texts)
    assert [len(split[name]) / 5000 for name in ("train", "dev", "test")] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(5000))
    assert split_rows(texts, seed=1)["dev"].tolist() != split["dev"].tolist()


def test_a_text_stays_in_its_split_whatever_other_rows_there_are() -> None:
    texts = [f"text {number % 300}" for number in range(1000)]
    splits = {texts[row]: name for name, rows in split_rows(texts).items() for row in rows}
    for name, rows in split_rows(texts).items():
        assert {texts[row] for row in rows} == {text for text, split_name in splits.items() if split_name == name}
    shuffled = random.Random(0).sample(texts, 500)
    for name, rows in split_rows(shuffled).items():
        assert all(splits[shuffled[row]] == name for row in rows)


def test_every_class_is_in_train() -> None:
    texts = [f"text {number}" for number in range(400)]
    labels = [f"class {number // 2}" for number in range(400)]
    assert {labels[row] for row in split_rows(texts)["train"]} < set(labels)
    assert {labels[row] for row in split_rows(texts, labels)["train"]} == set(labels)
    assert len(split_rows(texts, labels)["dev"]) > 10


def test_only_missing_splits_are_taken_from_train() -> None:
    train = Table.of({"text": [f"Text {number}" for number in range(200)], "label": [0, 1] * 100})
    test = Table.of({"text": ["a"], "label": [1]}, "test")
    completed = fill_missing_splits({"train": train, "test": test}, ["text"], "label")
    assert {name: len(table) for name, table in completed.items()}["test"] == 1
    assert len(completed["train"]) + len(completed["dev"]) == 200
    assert completed["dev"].name == "dev"
    assert not set(row_keys(completed["train"], ["text"])) & set(row_keys(completed["dev"], ["text"]))
    assert fill_missing_splits(completed, ["text"]) == completed
    assert fill_missing_splits({"test": test}, ["text"]) == {"test": test}


@pytest.mark.parametrize("fractions", [{"train": 0.0, "dev": 1.0}, {"train": 1.0, "dev": -0.1}])
def test_invalid_fractions_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="fractions"):
        split_rows(["a"], fractions=fractions)


def test_nothing_is_taken_if_train_would_be_empty() -> None:
    fractions = {"train": 0.9, "dev": 0.1}
    singles = [
        text for text in (f"text {number}" for number in range(60)) if len(split_rows([text], None, fractions)["dev"])
    ]
    assert singles
    for text in singles:
        train = Table.of({"text": [text] * 5})
        assert fill_missing_splits({"train": train}, ["text"], None, fractions) == {"train": train}


def test_training_rows_that_share_a_text_with_heldout_rows_are_removed() -> None:
    train = Table.of({"a": ["one", "two", "Three", "x", "y", "z"], "b": ["p", "heldout", "q", "x", "y", "z"]})
    heldout = Table.of({"a": ["three ", "heldout"], "b": ["r", "s"]}, "dev")
    assert list(remove_overlap(train, heldout, ["a", "b"])["a"]) == ["one", "x", "y", "z"]
    everywhere = Table.of({"a": ["three", "heldout"], "b": ["x", "one"]}, "dev")
    assert len(remove_overlap(train.take(np.arange(4)), everywhere, ["a", "b"])) == 4, "fewer than half would be left"
