"""The embedded engine: BM25 equals its formula, changes outlive a killed process, a second process is refused."""

from __future__ import annotations

import collections
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, SettingsError
from encodery.search.engine.edge import Edge
from encodery.search.store import Fields, Point, Store

RNG = np.random.default_rng(0)
ZIPF = 1 / np.arange(1, 201)
TEXTS = [
    " ".join(RNG.choice([f"w{i}" for i in range(200)], size=RNG.integers(3, 60), p=ZIPF / ZIPF.sum()))
    for _ in range(400)
]


def bm25(texts: dict[str, str], query: str, k: float, b: float) -> dict[str, float]:
    """The formula, document by document."""
    words = {name: text.split() for name, text in texts.items()}
    mean = sum(map(len, words.values())) / len(words)
    holding = collections.Counter(w for ws in words.values() for w in set(ws))
    scores = {}
    for name, ws in words.items():
        counts = collections.Counter(ws)
        score = 0.0
        for word in sorted(query.split()):
            idf = math.log(1 + (len(words) - holding[word] + 0.5) / (holding[word] + 0.5))
            score += idf * counts[word] * (k + 1) / (counts[word] + k * (1 - b + b * len(ws) / mean))
        if score > 0:
            scores[name] = score
    return scores


def bm25_scores(store: Store, query: str, limit: int = 5) -> dict[str, float]:
    """Document -> score, best first."""
    hits = store.search_bm25(query, limit)
    points = store.fetch([hit.id for hit in hits])
    return {points[hit.id].document: hit.score for hit in hits}


@pytest.mark.parametrize(("k", "b"), [(1.2, 0.75), (0.9, 0.4)])
def test_bm25_is_the_formula_also_after_deletion(tmp_path: Path, k: float, b: float) -> None:
    texts = {f"d{i}": text for i, text in enumerate(TEXTS)}
    with Edge(language="none", k=k, b=b).create(tmp_path / "s", Fields()) as store:
        store.upsert([Point(name, 0, text, None) for name, text in texts.items()])
        gone = [f"d{i}" for i in range(0, 400, 3)]
        store.delete_documents(gone)
        store.compact()
        left = {name: text for name, text in texts.items() if name not in gone}
        for query in ("w3 w50 w120", "w0", "w7 w7 w190", "w1 w2 absent"):
            truth = bm25(left, query, k, b)
            assert bm25_scores(store, query, len(left)) == pytest.approx(truth, rel=1e-5)


def test_repeated_query_terms_rank_correctly_at_any_limit(tmp_path: Path) -> None:
    texts = {f"d{i}": text for i, text in enumerate(TEXTS)}
    with Edge(language="none").create(tmp_path / "s", Fields()) as store:
        store.upsert([Point(name, 0, text, None) for name, text in texts.items()])
        # By distinct words w0 and w1 win; the rare word, which occurs five times, has to win.
        for query in ("w0 w1 w150 w150 w150 w150 w150", "w2 w3 w2 w199 w3 w199 w199", "w5 w5"):
            truth = sorted(bm25(texts, query, 1.2, 0.75).items(), key=lambda entry: -entry[1])[:3]
            assert bm25_scores(store, query, 3) == pytest.approx(dict(truth), rel=1e-5)
        long = "w150 " * 4000 + "w0 " * 999 + "w1 " * 2
        truth = sorted(bm25(texts, long, 1.2, 0.75).items(), key=lambda entry: -entry[1])[:3]
        assert bm25_scores(store, long, 3) == pytest.approx(dict(truth), rel=1e-5)
        some = [Point(name, 0, "", None).id for name in ("d1", "d2", "d3")]
        assert {hit.id for hit in store.search_bm25("w0 w0 w1", 9, among=some)} <= set(some)


def test_words_of_other_scripts_accents_and_stems(tmp_path: Path) -> None:
    with Edge(language="english").create(tmp_path / "s", Fields()) as store:
        texts = ["北京是中国的首都", "a naïve café in Größe", "he was running fast", "Москва столица"]
        store.upsert([Point(str(i), 0, text, None) for i, text in enumerate(texts)])
        for query, expected in (("首都", "0"), ("naive cafe", "1"), ("runs", "2"), ("МОСКВА", "3")):
            assert list(bm25_scores(store, query)) == [expected], query


def test_changes_outlive_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from encodery.search.engine.edge import Edge; from encodery.search.store import Fields, Point\n"
        "store = Edge().create(Path(sys.argv[1]), Fields())\n"
        "for i in range(50): store.upsert([Point(f'd{i}', 0, f'word{i}', None)])\n"
        "store.delete_documents(['d3']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], timeout=60)
    assert done.returncode == -9
    with Edge().open(tmp_path / "s") as store:
        assert store.count() == 49
        assert list(bm25_scores(store, "word49")) == ["d49"]
        assert store.search_bm25("word3", 1) == []


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with Edge().create(tmp_path / "s", Fields()), pytest.raises(ArtifactError, match="in use"):
        Edge().open(tmp_path / "s")


def test_a_graph_is_built_only_where_it_pays(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    points = [Point(f"d{i}", 0, "x", vector) for i, vector in enumerate(vectors)]
    with Edge(graph_from=200).create(tmp_path / "s", Fields(dense_dim=16)) as store:
        store.upsert(points)
        store.compact()
        query = vectors[5]
        truth = {points[i].id for i in np.argsort(-(vectors @ query))[:10]}
        assert len(truth & {hit.id for hit in store.search_dense(query, 10)}) >= 9


@pytest.mark.parametrize(
    ("settings", "expected_message"), [({"language": "englsh"}, "english"), ({"b": 2.0}, "b = 2.0")]
)
def test_wrong_settings_are_refused(tmp_path: Path, settings: dict[str, str | float], expected_message: str) -> None:
    with pytest.raises(SettingsError, match=expected_message):
        Edge(**settings).create(tmp_path / "s", Fields())  # type: ignore[arg-type]
