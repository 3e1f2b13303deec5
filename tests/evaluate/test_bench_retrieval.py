"""The peer of the retrieval bench, as a system like any other."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from encodery.evaluate.systems import UnsupportedEvaluation

FILE = Path(__file__).resolve().parents[2] / "bench" / "retrieval.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("bm25s", reason="it comes with the bench extra")
    pytest.importorskip("Stemmer", reason="it comes with the bench extra")
    spec = importlib.util.spec_from_file_location("bench_retrieval", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_retrieval", module)  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_the_peer_finds_documents_and_says_that_it_has_no_vectors(bench: ModuleType) -> None:
    opened = bench.BM25S().open()
    documents = {"boats": "A boat crosses the wide river.", "cats": "A cat sleeps near the window."}
    assert list(opened.rank({"q": "boats on rivers"}, documents, 5)["q"]) == ["boats"]
    with pytest.raises(UnsupportedEvaluation, match="bm25s"):
        opened.encode(["a cat"])
