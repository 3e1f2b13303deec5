"""An index of `encodery search` as a system of the retrieval suite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import InputError
from encodery.evaluate.plan import parse_system
from encodery.evaluate.suites.retrieval import RetrievalSuite
from encodery.evaluate.systems import UnsupportedEvaluation
from encodery.search.build import build
from encodery.search.rerank.cross_encoder import CrossEncoder
from encodery.search.results import SearchResult
from encodery.search.searcher import Searcher

DOCUMENTS = {
    "boats": "A boat crosses the river. The river is wide.",
    "cats": "A cat sleeps near the window.",
    "both": "A cat watched the boat, and the boat sailed on slowly until it was seen no more by anybody there.",
}
QUERIES = {"q1": "boat river", "q2": "cat", "q3": "nothing of this"}


class Shortest:
    """A reranker that prefers short texts."""

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        return np.array([-float(len(text)) for text in texts])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tboats\t1\nq2\tcats\t1\nq3\tcats\t1\n")
    return folder


@pytest.fixture
def index(data: Path, tmp_path: Path) -> Path:
    pytest.importorskip("qdrant_edge")
    build([data / "corpus.jsonl"], tmp_path / "index", None)
    return tmp_path / "index"


def test_an_index_is_measured_by_what_it_finds(data: Path, index: Path) -> None:
    suite = RetrievalSuite(k=2, depth=3)
    opened = parse_system(f"index:{index},mode=bm25").open()
    run = suite.ranked(suite.read(data), opened)
    assert list(run["q1"]) == ["boats", "both"]
    assert list(run["q2"]) == ["cats", "both"]
    assert run["q3"] == {}
    assert sorted(run["q1"].values(), reverse=True) == list(run["q1"].values())
    assert suite.measure(suite.read(data), opened)["ndcg@2"].per_item == pytest.approx([1.0, 1.0, 0.0])
    assert opened.counters.texts == 6
    assert opened.counters.seconds > 0
    with pytest.raises(UnsupportedEvaluation, match="returns no vectors"):
        opened.encode(["text"])
    opened.close()
    parse_system(f"index:{index}").open().close()


def test_the_reranked_stand_before_the_others(data: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrossEncoder, "open", lambda self: Shortest())
    suite = RetrievalSuite(k=2, depth=3)
    items = suite.read(data)
    items.queries["q2"] = "cat by the window, boat, river"

    def order(fields: str) -> list[str]:
        opened = parse_system(f"index:{index},mode=bm25{fields}").open()
        try:
            return list(suite.ranked(items, opened)["q2"])
        finally:
            opened.close()

    plain, reranked = order(""), order(",rerank=folder,rerank_top_k=2,rerank_weight=1")
    assert sorted(plain) == sorted(DOCUMENTS)
    assert reranked[:2] == sorted(plain[:2], key=lambda name: len(DOCUMENTS[name]))
    assert reranked[:2] != plain[:2]
    assert reranked[2] == plain[2], "what was not reranked keeps its place behind"


def test_an_index_of_other_documents_is_refused(data: Path, index: Path) -> None:
    items = RetrievalSuite().read(data)
    del items.documents["both"]
    with pytest.raises(InputError, match="does not have, such as 'both'"):
        RetrievalSuite().ranked(items, parse_system(f"index:{index}").open())


def test_sides_may_have_a_share_each(data: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[object] = []

    def search(self: Searcher, *arguments: object, weight: object = None, **options: object) -> SearchResult:
        weights.append(weight)
        return SearchResult("", "bm25", (), {})

    monkeypatch.setattr(Searcher, "search", search)
    for fields in (",weight.bm25=0.25,weight.dense=0.75", ",weight=0.4", ""):
        opened = parse_system(f"index:{index}{fields}").open()
        opened.rank({"q1": "boat"}, DOCUMENTS, 3)
        opened.close()
    assert weights == [{"bm25": 0.25, "dense": 0.75}, 0.4, None]


def test_a_weight_of_an_unknown_retriever_is_refused(index: Path) -> None:
    opened = parse_system(f"index:{index},weight.bm52=1").open()
    with pytest.raises(InputError, match=r"'bm52' is no mode of the index\. Did you mean 'bm25'"):
        opened.rank({"q1": "boat"}, DOCUMENTS, 3)
    opened.close()
