"""BEIR folders and TREC files: a round trip, and errors for duplicate and unknown ids."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from encodery.base.errors import EmptyInput, InputError
from encodery.rows import beir

CORPUS = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": 2, "text": "שתיים 👩‍👩‍👧"}]
QUERIES = [{"_id": "q1", "text": "first?"}, {"_id": "q2", "text": ""}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\t2\t0\n"


def folder(path: Path, corpus: list[Any] = CORPUS, queries: list[Any] = QUERIES, qrels: str = QRELS) -> Path:
    (path / "qrels").mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in corpus)
    (path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries), encoding="utf-8")
    (path / "qrels" / "valid.tsv").write_text(qrels, encoding="utf-8")
    return path


def test_a_folder_is_read(tmp_path: Path) -> None:
    dataset = beir.read_beir(folder(tmp_path / "a"))
    assert dataset.documents == {"d1": "T one", "2": "שתיים 👩‍👩‍👧"}
    assert dataset.queries == {"q1": "first?", "q2": ""}
    assert dataset.qrels == {"dev": {"q1": {"d1": 2, "2": 0}}}
    assert beir.is_beir(tmp_path / "a")
    assert not beir.is_beir(tmp_path)


def test_missing_documents_are_refused_or_kept(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", qrels="q1\td9\t1\nq1\td1\t1\nq2\td8\t0\n")
    with pytest.raises(InputError, match="that are not in the corpus: d9"):
        beir.read_beir(path)
    assert beir.read_beir(path, missing="keep").missing_documents("dev") == [("q1", "d9")]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"corpus": [*CORPUS, CORPUS[0]]}, "line 3: the document 'd1' occurs twice"),
        ({"queries": [QUERIES[0], QUERIES[0]]}, "line 2: the query 'q1' occurs twice"),
        ({"corpus": [{"id": "d1", "text": "x"}]}, "'_id' and 'text'; this row has id, text"),
        ({"qrels": QRELS + "q7\td1\t1\n"}, "judges unknown queries: q7"),
        ({"qrels": QRELS + "q2\td1\tyes\n"}, "line 4: a query, a document and an integer"),
        ({"qrels": QRELS + "q1\td1\t1\n"}, "have two grades"),
    ],
)
def test_errors_name_the_cause(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        beir.read_beir(folder(tmp_path / "a", **change))


def test_missing_files_and_rows_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.jsonl: no such file"):
        beir.read_beir(tmp_path)
    path = folder(tmp_path / "a")
    (path / "qrels" / "valid.tsv").unlink()
    with pytest.raises(InputError, match="contains no judgements"):
        beir.read_beir(path)
    with pytest.raises(EmptyInput):
        beir.read_beir(folder(tmp_path / "b", corpus=[]))


def test_trec_files_round_trip(tmp_path: Path) -> None:
    qrels = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    beir.write_qrels(tmp_path / "a.qrels", qrels)
    assert (tmp_path / "a.qrels").read_text().splitlines()[0] == "q1 0 d1 2"
    assert beir.read_qrels(tmp_path / "a.qrels") == qrels
    run = {"q1": {"a": 0.1, "b": 0.1 + 1e-12, "c": 0.1}, "q2": {"d": -3.0}}
    beir.write_run(tmp_path / "a.run", run, "my system")
    lines = (tmp_path / "a.run").read_text().splitlines()
    assert [line.split()[2:4] for line in lines[:3]] == [["b", "1"], ["c", "2"], ["a", "3"]]
    assert lines[0].endswith(" my_system")
    assert beir.read_run(tmp_path / "a.run") == run
    (tmp_path / "a.run").write_text(lines[0] + "\n" + lines[0] + "\n")
    with pytest.raises(InputError, match="line 2: query 'q1' has the document 'b' twice"):
        beir.read_run(tmp_path / "a.run")
    (tmp_path / "a.run").write_text("q1 Q0 b\n")
    with pytest.raises(InputError, match="line 1: 'query Q0"):
        beir.read_run(tmp_path / "a.run")
    with pytest.raises(InputError, match="cannot be written to a TREC file"):
        beir.write_run(tmp_path / "b.run", {"q 1": {"d": 1.0}}, "x")
