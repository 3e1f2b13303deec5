"""Data of every shape: roles of columns, negatives, held-out rows, mined negatives; BM25 in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import EmptyInput, InputError, SettingsError
from encodery.base.settings import decode
from encodery.embed.bm25_search import BM25Search
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.reading import COLUMN_NAMES, TARGET_ROLES, examples_of, hold_out_dev, read_data
from encodery.embed.training import EmbedTraining
from encodery.model.load import LoadedModel
from encodery.rows.columns import Roles, assign_roles
from encodery.rows.split import normalise_text
from encodery.rows.table import Table


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(**over: Any) -> EmbedTraining:
    return decode(EmbedTraining, over)


@pytest.fixture
def table(tmp_path: Path) -> Any:
    from encodery.rows.read import read_tables

    def make(rows: Sequence[Mapping[str, Any]]) -> Any:
        return next(iter(read_tables(write(tmp_path / "some.jsonl", rows)).values()))

    return make


def roles_of(table: Table, columns: Mapping[str, str] | None = None) -> Roles:
    return assign_roles(table, ("anchor",), columns, TARGET_ROLES, COLUMN_NAMES)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("query positive", {"anchor": "query", "positive": "positive"}),
        ("Text_A Text_B label", {"anchor": "Text_A", "positive": "Text_B", "label": "label"}),
        ("a b score split", {"anchor": "a", "positive": "b", "score": "score"}),
        ("premise hypothesis label", {"anchor": "premise", "positive": "hypothesis", "label": "label"}),
        ("question context rating", {"anchor": "question", "positive": "context"}),
        ("text label", {"anchor": "text", "label": "label"}),
        ("question answer text", {"anchor": "question", "positive": "answer"}),
        ("utterance intent", {"anchor": "utterance", "label": "intent"}),
    ],
)
def test_roles_are_guessed_by_name_or_because_only_one_fits(table: Any, columns: str, expected: dict[str, str]) -> None:
    assert roles_of(table([dict.fromkeys(columns.split(), "x")])).columns == expected


def test_explicit_roles(table: Any) -> None:
    some = table([{"left": "x", "right": "y", "score": 1}])
    data = roles_of(some, {"anchor": "left", "positive": "right", "score": "none"})
    assert data.columns == {"anchor": "left", "positive": "right"}
    with pytest.raises(InputError, match=r"no such column\. Did you mean 'left'"):
        roles_of(some, {"anchor": "lft"})
    with pytest.raises(InputError, match=r"columns\.achor: there is no such role\. Did you mean 'anchor'"):
        roles_of(some, {"achor": "left"})
    with pytest.raises(InputError, match=r"no column matches anchor.*columns\.anchor=COLUMN"):
        roles_of(some)


def made(
    table: Any, rows: Sequence[Mapping[str, Any]], num_negatives: int | None = None, **chosen: str
) -> EmbeddingExamples:
    some = table(rows)
    return examples_of(some, roles_of(some, chosen), num_negatives)


def test_rows_become_examples(table: Any) -> None:
    pairs = made(table, [{"query": "q", "positive": "p"}, {"query": "", "positive": "r"}])
    assert pairs.columns == (["q", ""], ["p", "r"])
    lists = [
        {"query": "q", "positive": "p", "negatives": ["a", "b"]},
        {"query": "r", "positive": "s", "negatives": ["c"]},
    ]
    assert made(table, lists).columns[2:] == (["a", "c"],)
    assert len(made(table, lists, num_negatives=2).columns) == 4
    plain = [{"query": "q", "positive": "p", "negative_1": "a", "negative_2": "b"}]
    assert made(table, plain, num_negatives=2).columns == (["q"], ["p"], ["a"], ["b"])
    assert made(table, plain, num_negatives=2, negative="none").columns == (["q"], ["p"])
    assert made(table, plain, negative="negative_2").columns == (["q"], ["p"], ["b"])
    taught = [{"query": "q", "positive": "p", "negative": ["a", "b"], "scores": [2.5, 1.0, -1.0]}]
    data = made(table, taught, num_negatives=2)
    assert data.target_kind == "scores"
    assert data.target is not None
    assert data.target.tolist() == [[2.5, 1.0, -1.0]]
    classes = made(table, [{"text": "x", "label": "no"}, {"text": "y", "label": "ja"}, {"text": "z", "label": "no"}])
    assert (classes.target_kind, classes.target.tolist()) == ("label", [1, 0, 1])  # type: ignore[union-attr]
    scored = made(table, [{"sentence1": "x", "sentence2": "y", "score": 3.5}])
    assert (scored.target_kind, scored.target.tolist()) == ("score", [3.5])  # type: ignore[union-attr]
    assert made(table, [{"text": "x"}]).raw
    with pytest.raises(InputError, match="line 2: column 'score' is 'high'"):
        made(table, [{"a": "x", "b": "y", "score": "1"}, {"a": "x", "b": "y", "score": "high"}])
    with pytest.raises(InputError, match="line 1: column 'score' is 'nan', a number is needed"):
        made(table, [{"a": "x", "b": "y", "score": "nan"}])
    with pytest.raises(InputError, match="line 1: column 'b' is empty"):
        made(table, [{"a": "x", "b": None}])


def test_held_out_examples_share_no_text_with_training() -> None:
    rng = np.random.default_rng(0)
    left = [f"q{i}" if n % 2 else f" Q{i}" for n, i in enumerate(rng.integers(0, 1500, 2000))]
    table = Table.of({"query": left, "positive": [f"p{i}" for i in rng.integers(0, 3000, 2000)]})

    def apart(table: Table) -> tuple[Table, Table]:
        data, _ = hold_out_dev({"train": table}, roles_of(table))
        return data["train"], data["dev"]

    def texts(table: Table, column: str) -> set[str]:
        return {normalise_text(text) for text in table[column]}

    train, dev = apart(table)
    assert 50 < len(dev) < 200
    for column in ("query", "positive"):
        assert not texts(train, column) & texts(dev, column)
    assert list(apart(table)[1]["query"]) == list(dev["query"])
    few = table.take(np.arange(30))
    assert hold_out_dev({"train": few}, roles_of(few))[0] == {"train": few}
    assert 1 <= len(hold_out_dev({"train": few}, roles_of(few), 0.2)[0]["dev"]) < 12, "a given fraction is used"
    assert hold_out_dev({"train": table}, roles_of(table), 0.0)[0] == {"train": table}
    everywhere = Table.of({"query": left, "positive": ["yes" if i % 2 else "no" for i in range(2000)]})
    kept, away = apart(everywhere)
    assert not texts(kept, "query") & texts(away, "query"), "where a few texts are everywhere, anchors are kept apart"
    classes = Table.of({"text": [f"t{i}" for i in range(2000)], "label": [f"c{i // 2}" for i in range(2000)]})
    kept, _ = apart(classes)
    assert len(set(kept["label"])) == 1000, "no class is missing from training"


@pytest.mark.parametrize(
    ("rows", "minimum", "maximum"),
    [(49, 0, 0), (80, 10, 24), (150, 12, 34), (400, 18, 44), (600, 18, 44), (2000, 70, 130)],
)
def test_of_few_rows_a_larger_fraction_is_held_out(rows: int, minimum: int, maximum: int) -> None:
    table = Table.of({"query": [f"question {i}" for i in range(rows)], "positive": [f"p{i}" for i in range(rows)]})
    data, _ = hold_out_dev({"train": table}, roles_of(table))
    assert minimum <= len(data.get("dev", ())) <= maximum
    assert len(data["train"]) + len(data.get("dev", ())) == rows


def test_what_is_held_out_is_always_reported(loaded: LoadedModel, tmp_path: Path) -> None:
    def summary(count: int, **over: Any) -> tuple[bool, str]:
        rows = [{"query": f"a{i} b", "positive": f"b{i // 2}"} for i in range(count)]
        data = read_data(write(tmp_path / f"{count}.jsonl", rows), settings(**over), loaded)
        assert data.select_on_dev is ("the last ones are kept" not in "".join(data.notes))
        return data.dev is not None, "\n".join(data.notes)

    has_dev, notes = summary(120)
    assert has_dev
    assert "of 120 rows are held out as dev rows; no training row has the same query, and " in notes
    assert "rows that share another text with them are left out" in notes
    assert "rows are too few to select the best weights: the last ones are kept" in notes
    has_dev, notes = summary(1500)
    assert has_dev
    assert "kept" not in notes, "enough to say which weights are the best"
    has_dev, notes = summary(30)
    assert not has_dev
    assert "no dev rows are held out (fewer than 10 of 30 rows)" in notes
    assert "the last weights are kept" in notes
    has_dev, notes = summary(120, heldout=0.0)
    assert not has_dev
    assert "no dev rows are held out (heldout = 0)" in notes
    assert summary(30, heldout=0.3)[0]
    with pytest.raises(SettingsError, match=r"heldout = 1\.5"):
        settings(heldout=1.5)
    rows = [{"a": f"a{i}", "b": f"b{i}", "score": i % 3} for i in range(12)]
    write(tmp_path / "even" / "train.jsonl", rows)
    write(tmp_path / "even" / "dev.jsonl", [{**row, "score": 1} for row in rows])
    assert "dev: has nothing to compute metrics from" in "\n".join(
        read_data(tmp_path / "even", settings(), loaded).notes
    )


def test_a_test_split_is_read_by_its_own_columns_and_reported(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = [{"a": f"a{i}", "b": f"b{i}", "score": i % 6} for i in range(30)]

    def test_split(test: Sequence[Mapping[str, Any]]) -> tuple[EmbeddingExamples | None, str]:
        write(tmp_path / "train.jsonl", rows)
        write(tmp_path / "dev.jsonl", [{**row, "a": f"{row['a']} c"} for row in rows])
        write(tmp_path / "test.jsonl", test)
        data = read_data(tmp_path, settings(), loaded)
        return data.test, "\n".join(data.notes)

    data, notes = test_split(rows[3:9])
    assert data is not None
    assert (data.target_kind, len(data)) == ("score", 6)
    assert data.target is not None
    assert data.target.max() == 1.0, "brought to 0 … 1 as those of training"
    assert "test: 6 examples are evaluated once, at the end" in notes
    assert "test: 6 rows are also in train" in notes
    data, notes = test_split([{"query": "a1", "answer": "b1"}, {"query": "a2", "answer": "b2"}])
    assert data is not None
    assert data.target_kind == "none"
    assert "columns of test: anchor = query" in notes
    for rows_of_test, message in (
        ([{"text": "a1"}], "test: has nothing to compute metrics from"),
        ([{**row, "score": 2} for row in rows], "test: has nothing to compute metrics from"),
        ([{**rows[0], "score": None}], "test: not evaluated: "),
        ([{"left": "x", "right": "y"}], "test: left out: "),
    ):
        data, notes = test_split(rows_of_test)
        assert data is None
        assert message in notes


def test_rows_are_split_by_a_column(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = [{"a": f"a{i}", "b": f"b{i}", "split": "test" if i % 4 == 0 else "train"} for i in range(200)]
    data = read_data(write(tmp_path / "rows.jsonl", rows), settings(), loaded)
    assert data.test is not None
    assert data.dev is not None
    assert len(data.test) == 50
    assert not set(data.test.columns[0]) & {*data.train.columns[0], *data.dev.columns[0]}


def test_findings_in_the_rows_are_reported(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = [{"a": f"a{i}", "b": f"b{i}", "score": i % 3} for i in range(12)]
    write(tmp_path / "train.jsonl", [*rows, {"a": "A0", "b": "b0 ", "score": 2}])
    write(tmp_path / "dev.jsonl", rows[3:5])
    notes = "\n".join(read_data(tmp_path, settings(), loaded).notes)
    assert "train: 1 rows have the text of an earlier row" in notes
    assert "train: 2 rows have the text of another row but a different label" in notes
    assert (
        f"dev: 2 rows are also in train: metrics on them are too optimistic ({tmp_path / 'dev.jsonl'}, line 1" in notes
    )


def test_splits_are_read_each_by_its_own_columns(loaded: LoadedModel, pairs: Any, tmp_path: Path) -> None:
    left, right = pairs(30, 1).columns
    write(tmp_path / "train.jsonl", [{"text": text} for text in left])
    write(
        tmp_path / "dev.jsonl",
        [{"a": a, "b": b, "score": i % 5} for i, (a, b) in enumerate(zip(left, right, strict=True))],
    )
    data = read_data(tmp_path, settings(), loaded)
    assert data.train.raw
    assert data.dev is not None
    assert data.dev.target_kind == "score"
    assert any("anchor = a (by name)" in note for note in data.notes)
    empty = write(tmp_path / "other" / "dev.jsonl", [{"text": "x"}])
    with pytest.raises(EmptyInput):
        read_data(empty.parent, settings(), loaded)


def test_scores_are_rescaled_to_one(loaded: LoadedModel, tmp_path: Path) -> None:
    rows = [{"a": f"a{i}", "b": f"b{i}", "score": i % 6} for i in range(30)]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "dev.jsonl", rows[:7])
    data = read_data(tmp_path, settings(), loaded)
    assert data.train.target is not None
    assert np.unique(data.train.target).tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert data.dev is not None
    assert data.dev.target is not None
    assert data.dev.target[5] == 1.0


def test_a_data_set_in_beir_layout(loaded: LoadedModel, tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": f"b{i}"} for i in range(4)])
    write(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"a{i}"} for i in range(3)])
    (tmp_path / "qrels").mkdir()
    head = "query-id\tcorpus-id\tscore\n"
    (tmp_path / "qrels" / "train.tsv").write_text(head + "q0\td1\t1\nq0\td2\t2\nq1\td0\t0\n")
    (tmp_path / "qrels" / "dev.tsv").write_text(head + "q2\td3\t1\n")
    data = read_data(tmp_path, settings(), loaded)
    assert data.train.columns == (["a0", "a0"], ["b1", "b2"])
    assert data.dev is not None
    assert data.dev.columns == (["a2"], ["b3"])


@pytest.mark.parametrize("miner", ["hard", "bm25", "random"])
def test_negatives_are_mined_before_training(loaded: LoadedModel, pairs: Any, tmp_path: Path, miner: str) -> None:
    left, right = pairs(60, 1).columns
    rows = [{"query": a, "positive": b} for a, b in zip(left, [b + " a1" for b in right], strict=True)]
    path = write(tmp_path / "train.jsonl", rows)
    data = read_data(path, settings(miner={"is": miner}, num_mined_negatives=2), loaded)
    assert len(data.train.columns) == 4
    for number, anchor in enumerate(data.train.columns[0]):
        mine = {data.train.columns[2][number], data.train.columns[3][number]}
        own = {p for a, p in zip(data.train.columns[0], data.train.columns[1], strict=True) if a == anchor}
        assert not mine & own
    assert any("of the negatives found" in note for note in data.notes)
    again = read_data(path, settings(miner={"is": miner}, num_mined_negatives=2), loaded)
    assert again.train.fingerprint == data.train.fingerprint
    with pytest.raises(SettingsError, match="mined for pairs"):
        read_data(write(tmp_path / "raw.jsonl", [{"text": "a1"}]), settings(miner={"is": miner}), loaded)


def test_bm25_equals_its_formula() -> None:
    passages = ["the cat sat", "a dog and a cat", "nothing here", "cat cat cat dog", ""]
    search = BM25Search(passages)
    lengths = np.array([3, 5, 2, 4, 0])
    data = {}
    for number, counts in {0: 1, 1: 1, 3: 3}.items():
        rarity = np.log(1 + (5 - 3 + 0.5) / (3 + 0.5))
        data[number] = rarity * counts / (counts + 1.2 * (0.25 + 0.75 * lengths[number] / lengths.mean()))
    assert search("Cat!", 10) == sorted(data, key=lambda number: -data[number])
    assert search("unknown", 10) == []
    assert search("dog cat", 1) == [3]
