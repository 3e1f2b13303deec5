"""Training rows without a file of dev rows: which of them are held out, and that related rows stay together."""

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
    data = read_data(written(tmp_path / "rows.jsonl", 120), FinetuneSettings(task=PassageRanking(), heldout=0.2))
    assert data.dev is not None
    sides = {"train": data.train, "dev": data.dev}
    query_sets = {name: {q.lower().replace("  ", " ") for q in rows["query"]} for name, rows in sides.items()}
    assert not query_sets["train"] & query_sets["dev"]
    assert 10 < len(query_sets["dev"]) < 40
    assert len(data.dev["query"]) == 4 * len(query_sets["dev"]), "a query is judged on all of its passages"
    assert set(data.dev["text"]) & set(data.train["text"]), "passages may stand on both sides"
    assert any("no training row has the same query" in note for note in data.notes)
    metrics = PassageRanking().metrics([{"logit": float(label)} for label in data.dev["score"]], data.dev, {})
    assert metrics["ndcg"] == pytest.approx(1.0)


def test_a_single_query_is_left_to_learn_from(tmp_path: Path) -> None:
    for number in range(30):  # about three of them would be held out
        rows = [{"query": f"only {number}", "text": f"passage {n}", "label": n % 2} for n in range(4)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = read_data(tmp_path / "rows.jsonl", FinetuneSettings(task=PassageRanking()))
        assert len(data.train["query"]) == 4
        assert data.dev is None


def test_all_questions_on_a_paragraph_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"question": f"who {q}", "context": f"{'In  PARAGRAPH' if q % 2 else 'In paragraph'} {p}", "answers": []}
        for p in range(100)
        for q in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_data(tmp_path / "rows.jsonl", FinetuneSettings(task=ExtractiveQA(), heldout=0.2))
    assert data.dev is not None
    train, dev = ({" ".join(c.lower().split()) for c in side["context"]} for side in (data.train, data.dev))
    assert not train & dev
    assert len(data.dev["question"]) == 4 * len(dev)
    assert any("no training row has the same context" in note for note in data.notes)


def test_pairs_are_kept_apart_as_pairs(tmp_path: Path) -> None:
    data = read_data(
        written(tmp_path / "rows.jsonl", 60),
        FinetuneSettings(task=PairClassification(), columns={"text": "query", "text_b": "text"}),
    )
    assert data.dev is not None
    assert len(set(data.dev["text"])) > len(data.dev["text"]) / 4
    assert any("no training row has the same text and text_b" in note for note in data.notes)


def classes(file: Path, count: int, splits: tuple[str, ...] = ()) -> Path:
    rows = [{"text": f"text {n} of many", "label": "ab"[n % 2]} for n in range(count)]
    if splits:
        rows = [{**row, "split": splits[n % len(splits)]} for n, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_dev_and_test_rows_are_set_apart_where_they_lack(tmp_path: Path) -> None:
    file = classes(tmp_path / "rows.jsonl", 400)
    data = read_data(file, FinetuneSettings())
    assert data.dev is not None
    assert data.test is not None
    sides = [set(side["text"]) for side in (data.train, data.dev, data.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 400
    assert all(35 < len(side) < 85 for side in sides[1:])
    again = read_data(file, FinetuneSettings())
    assert again.test == data.test, "the same rows at every call"
    assert any("held out as test rows" in note for note in data.notes)
    only = read_data(file, FinetuneSettings(test=0))
    assert only.test is None
    assert only.dev is not None


def test_test_rows_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    data = read_data(classes(tmp_path / "rows.jsonl", 300, ("train", "train", "test")), FinetuneSettings())
    assert data.test is not None
    assert len(data.test["text"]) == 100
    assert data.dev is not None
    assert len(data.train["text"]) + len(data.dev["text"]) == 200


def test_too_few_rows_are_all_used_for_training_with_a_note(tmp_path: Path) -> None:
    data = read_data(classes(tmp_path / "rows.jsonl", 60), FinetuneSettings())
    assert data.test is None
    assert any(note.startswith("no test rows are held out") for note in data.notes)


def test_scores_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,score\none,1\ntwo,nan\nthree,3\nfour,NA\nnan,2\n")
    with pytest.raises(InputError, match="2 rows have no value in score"):
        read_data(tmp_path / "rows.csv", FinetuneSettings(task=TextRegression()))
    data = read_data(tmp_path / "rows.csv", FinetuneSettings(task=TextRegression(), missing="drop"))
    dev = [] if data.dev is None else list(data.dev["text"])
    assert sorted([*data.train["text"], *dev]) == ["nan", "one", "three"], "as a text, nan is a word"


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
