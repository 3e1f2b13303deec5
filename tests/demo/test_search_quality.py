"""The queries with which the demo measures its index: written by hand if the corpus has their answers, else titles."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from encodery.demo.search_quality import MAX_TITLE_QUESTIONS, MIN_QUESTIONS, QUERIES, questions


def corpus(folder: Path, documents: list[dict[str, Any]]) -> Path:
    (folder / "train").mkdir(parents=True)
    lines = (json.dumps({"id": str(n), "text": "x", "metadata": one}) for n, one in enumerate(documents))
    (folder / "train" / "00000.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_queries_written_by_hand_are_used_if_enough_of_their_answers_are_there(tmp_path: Path) -> None:
    patterns = [row["relevant"][0] for row in tomllib.loads(QUERIES.read_text(encoding="utf-8"))["query"]]
    paths = [{"path": pattern.replace("*", "a")} for pattern in patterns]
    origin, queries = questions(corpus(tmp_path / "all", paths))
    assert origin == "written by hand"
    assert len(queries) == len(patterns) >= MIN_QUESTIONS
    assert all(set(query.relevant) <= {one["path"] for one in paths} for query in queries)
    origin, queries = questions(corpus(tmp_path / "few", [*paths[:3], {"path": "p", "title": "Bridges"}]))
    assert origin == "titles of documents"
    assert [(query.text, query.relevant) for query in queries] == [("Bridges", ("p",))]


def test_titles_are_drawn_the_same_at_every_call(tmp_path: Path) -> None:
    documents = [{"path": f"{n}.html", "title": f"Title {n}"} for n in range(MAX_TITLE_QUESTIONS + 50)]
    folder = corpus(tmp_path, [*documents, {"path": "untitled"}, {"title": "no path"}])
    first, second = questions(folder)[1], questions(folder)[1]
    assert first == second
    assert len({query.text for query in first}) == MAX_TITLE_QUESTIONS
    assert questions(corpus(tmp_path / "bare", [{"path": "a"}])) == ("titles of documents", [])
