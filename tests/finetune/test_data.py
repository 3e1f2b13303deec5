"""Rows without dev rows of their own: what is kept apart when some are held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import InputError
from encodery.finetune.data import read_data
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.tasks.multilabel import MultilabelClassification
from encodery.finetune.tasks.pair import PairClassification
from encodery.finetune.tasks.rank import PassageRanking
from encodery.finetune.tasks.regress import TextRegression
from encodery.finetune.tasks.span import ExtractiveQA
from encodery.finetune.tasks.tag import SequenceTagging


def written(file: Path, queries: int) -> Path:
    rows = [
        {"query": f"query {q}" if n % 2 else f"QUERY  {q}", "text": f"passage {(q * 7 + n) % 90}", "label": int(n == 0)}
        for q in range(queries)
        for n in range(4)
    ]
    file.write_text("".join(json.dumps(rows[n]) + "\n" for n in np.random.default_rng(0).permutation(len(rows))))
    return file


def test_all_passages_of_a_query_stay_on_one_side(tmp_path: Path) -> None:
    found = read_data(written(tmp_path / "rows.jsonl", 120), FinetuneSettings(task=PassageRanking(), heldout=0.2))
    assert found.dev is not None
    sides = {"train": found.train, "dev": found.dev}
    asked = {name: {q.lower().replace("  ", " ") for q in rows["query"]} for name, rows in sides.items()}
    assert not asked["train"] & asked["dev"]
    assert 10 < len(asked["dev"]) < 40
    assert len(found.dev["query"]) == 4 * len(asked["dev"]), "a query is judged on all of its passages"
    assert set(found.dev["text"]) & set(found.train["text"]), "passages may stand on both sides"
    assert any("no training row has the same query" in note for note in found.notes)
    figures = PassageRanking().metrics([{"logit": float(label)} for label in found.dev["score"]], found.dev, {})
    assert figures["ndcg"] == pytest.approx(1.0)


def test_a_single_query_is_left_to_learn_from(tmp_path: Path) -> None:
    for number in range(30):  # about three of them would be held out
        rows = [{"query": f"only {number}", "text": f"passage {n}", "label": n % 2} for n in range(4)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = read_data(tmp_path / "rows.jsonl", FinetuneSettings(task=PassageRanking()))
        assert len(found.train["query"]) == 4
        assert found.dev is None


def test_all_questions_on_a_paragraph_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"question": f"who {q}", "context": f"{'In  PARAGRAPH' if q % 2 else 'In paragraph'} {p}", "answers": []}
        for p in range(100)
        for q in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_data(tmp_path / "rows.jsonl", FinetuneSettings(task=ExtractiveQA(), heldout=0.2))
    assert found.dev is not None
    train, dev = ({" ".join(c.lower().split()) for c in side["context"]} for side in (found.train, found.dev))
    assert not train & dev
    assert len(found.dev["question"]) == 4 * len(dev)
    assert any("no training row has the same context" in note for note in found.notes)


def test_pairs_are_kept_apart_as_pairs(tmp_path: Path) -> None:
    found = read_data(
        written(tmp_path / "rows.jsonl", 60),
        FinetuneSettings(task=PairClassification(), columns={"text": "query", "text_b": "text"}),
    )
    assert found.dev is not None
    assert len(set(found.dev["text"])) > len(found.dev["text"]) / 4
    assert any("no training row has the same text and text_b" in note for note in found.notes)


def classes(file: Path, count: int, splits: tuple[str, ...] = ()) -> Path:
    rows = [{"text": f"text {n} of many", "label": "ab"[n % 2]} for n in range(count)]
    if splits:
        rows = [{**row, "split": splits[n % len(splits)]} for n, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_dev_and_test_rows_are_set_apart_where_they_lack(tmp_path: Path) -> None:
    file = classes(tmp_path / "rows.jsonl", 400)
    found = read_data(file, FinetuneSettings())
    assert found.dev is not None
    assert found.test is not None
    sides = [set(side["text"]) for side in (found.train, found.dev, found.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 400
    assert all(35 < len(side) < 85 for side in sides[1:])
    again = read_data(file, FinetuneSettings())
    assert again.test == found.test, "the same rows at every call"
    assert any("held out as test rows" in note for note in found.notes)
    only = read_data(file, FinetuneSettings(test=0))
    assert only.test is None
    assert only.dev is not None


def test_test_rows_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    found = read_data(classes(tmp_path / "rows.jsonl", 300, ("train", "train", "test")), FinetuneSettings())
    assert found.test is not None
    assert len(found.test["text"]) == 100
    assert found.dev is not None
    assert len(found.train["text"]) + len(found.dev["text"]) == 200


def test_too_few_rows_are_all_used_for_training_with_a_note(tmp_path: Path) -> None:
    found = read_data(classes(tmp_path / "rows.jsonl", 60), FinetuneSettings())
    assert found.test is None
    assert any(note.startswith("no test rows are held out") for note in found.notes)


def test_scores_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,score\none,1\ntwo,nan\nthree,3\nfour,NA\nnan,2\n")
    with pytest.raises(InputError, match="2 rows have no value in score"):
        read_data(tmp_path / "rows.csv", FinetuneSettings(task=TextRegression()))
    found = read_data(tmp_path / "rows.csv", FinetuneSettings(task=TextRegression(), missing="drop"))
    dev = [] if found.dev is None else list(found.dev["text"])
    assert sorted([*found.train["text"], *dev]) == ["nan", "one", "three"], "as a text, nan is a word"


def test_labels_of_sets_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "labels": ["often", "rare"] if n == 7 else ["often"]} for n in range(40)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = read_data(tmp_path / "many.jsonl", FinetuneSettings(task=MultilabelClassification(), heldout=0.01)).notes
    assert any("2 classes: often 40, rare 1" in note for note in notes)
    assert any("often has 40 times as many rows as rare" in note for note in notes)
    rows = [{"tokens": ["Ada", "saw", "Rome"], "tags": ["B-person", "O", "B-place"], "n": n} for n in range(5)]
    (tmp_path / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = read_data(tmp_path / "tags.jsonl", FinetuneSettings(task=SequenceTagging())).notes
    assert any("2 classes: person 5, place 5" in note for note in notes)
