"""Rows without dev rows of their own: what is kept apart when some are held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from encodery.finetune.data import read
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.tasks.pair import Pair
from encodery.finetune.tasks.rank import Rank
from encodery.finetune.tasks.span import Span


def written(file: Path, queries: int) -> Path:
    rows = [
        {"query": f"query {q}" if n % 2 else f"QUERY  {q}", "text": f"passage {(q * 7 + n) % 90}", "label": int(n == 0)}
        for q in range(queries)
        for n in range(4)
    ]
    file.write_text("".join(json.dumps(rows[n]) + "\n" for n in np.random.default_rng(0).permutation(len(rows))))
    return file


def test_all_passages_of_a_query_stay_on_one_side(tmp_path: Path) -> None:
    found = read(written(tmp_path / "rows.jsonl", 120), FinetuneSettings(task=Rank(), heldout=0.2))
    assert found.dev is not None
    sides = {"train": found.train, "dev": found.dev}
    asked = {name: {q.lower().replace("  ", " ") for q in rows["query"]} for name, rows in sides.items()}
    assert not asked["train"] & asked["dev"]
    assert 10 < len(asked["dev"]) < 40
    assert len(found.dev["query"]) == 4 * len(asked["dev"]), "a query is judged on all of its passages"
    assert set(found.dev["text"]) & set(found.train["text"]), "passages may stand on both sides"
    assert any("no query of theirs stays in training" in note for note in found.notes)
    figures = Rank().figures([{"logit": float(label)} for label in found.dev["score"]], found.dev, {})
    assert figures["ndcg"] == pytest.approx(1.0)


def test_a_single_query_is_left_to_learn_from(tmp_path: Path) -> None:
    for number in range(30):  # about three of them would be held out
        rows = [{"query": f"only {number}", "text": f"passage {n}", "label": n % 2} for n in range(4)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = read(tmp_path / "rows.jsonl", FinetuneSettings(task=Rank()))
        assert len(found.train["query"]) == 4
        assert found.dev is None


def test_all_questions_on_a_paragraph_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {"question": f"who {q}", "context": f"{'In  PARAGRAPH' if q % 2 else 'In paragraph'} {p}", "answers": []}
        for p in range(100)
        for q in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path / "rows.jsonl", FinetuneSettings(task=Span(), heldout=0.2))
    assert found.dev is not None
    train, dev = ({" ".join(c.lower().split()) for c in side["context"]} for side in (found.train, found.dev))
    assert not train & dev
    assert len(found.dev["question"]) == 4 * len(dev)
    assert any("no context of theirs stays in training" in note for note in found.notes)


def test_pairs_are_kept_apart_as_pairs(tmp_path: Path) -> None:
    found = read(
        written(tmp_path / "rows.jsonl", 60), FinetuneSettings(task=Pair(), columns={"text": "query", "text_b": "text"})
    )
    assert found.dev is not None
    assert len(set(found.dev["text"])) > len(found.dev["text"]) / 4
    assert any("no text of theirs stays in training" in note for note in found.notes)
