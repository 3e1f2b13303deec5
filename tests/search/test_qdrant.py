"""The engine of a cluster: BM25 as the embedded engine has it, what outlives a process, what its errors name.

No server is started here: the client's stand-in in memory answers. What only a server can show is not tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, MissingExtra, SettingsError
from encodery.search.build import IndexSettings, build
from encodery.search.engine import qdrant as qdrant_part
from encodery.search.engine._client import RetryingClient
from encodery.search.engine.edge import Edge
from encodery.search.engine.qdrant import Qdrant
from encodery.search.passages import Passages
from encodery.search.searcher import Searcher
from encodery.search.store import Fields, Point, Store
from encodery.search.update import add, delete

RNG = np.random.default_rng(3)
ZIPF = 1 / np.arange(1, 151)
TEXTS = {
    f"d{i}": " ".join(RNG.choice([f"w{n}" for n in range(150)], size=RNG.integers(3, 60), p=ZIPF / ZIPF.sum()))
    for i in range(200)
}
QUERIES = ("w3 w50 w120", "w0", "w7 w7 w90", "w1 w2 absent", "w0 w1 w149 w149 w149")


def bm25_scores(store: Store, query: str, limit: int = 200) -> dict[str, float]:
    """Document -> score."""
    hits = store.search_bm25(query, limit)
    points = store.fetch([hit.id for hit in hits])
    return {points[hit.id].document: hit.score for hit in hits}


def test_bm25_is_that_of_the_embedded_engine_also_after_changes(tmp_path: Path) -> None:
    with (
        Edge(language="none").create(tmp_path / "edge", Fields()) as edge,
        Qdrant(language="none", drift=0.0).create(tmp_path / "qdrant", Fields()) as cluster,
    ):
        for store in (edge, cluster):
            points = [Point(name, 0, text, None) for name, text in TEXTS.items()]
            store.upsert(points[:40])
            store.upsert(points[40:])
            store.compact()
        for query in QUERIES:
            assert bm25_scores(cluster, query) == pytest.approx(bm25_scores(edge, query), rel=1e-5)
        for store in (edge, cluster):
            store.delete_documents([f"d{i}" for i in range(0, 200, 3)])
            store.compact()
        for query in QUERIES:
            assert bm25_scores(cluster, query) == pytest.approx(bm25_scores(edge, query), rel=1e-5)


def test_weights_stay_while_the_mean_length_hardly_moves(tmp_path: Path) -> None:
    with Qdrant(language="none", drift=0.1).create(tmp_path / "s", Fields()) as store:
        store.upsert([Point(f"a{i}", 0, "one two three four", None) for i in range(20)])
        before = bm25_scores(store, "one")
        store.upsert([Point("b", 0, "five six seven eight nine", None)])
        store.compact()
        assert json.loads((tmp_path / "s" / qdrant_part.NOTE).read_text())["mean"] == 4
        store.upsert([Point(f"c{i}", 0, "five " * 12, None) for i in range(20)])
        store.compact()
        assert json.loads((tmp_path / "s" / qdrant_part.NOTE).read_text())["mean"] == pytest.approx(325 / 41)
        assert bm25_scores(store, "one")["a0"] > before["a0"]  # rarer, and short now


def test_both_engines_give_the_same_index(rows: Path, tmp_path: Path, encoder: Any) -> None:
    answers = []
    for name, engine in (("edge", Edge()), ("qdrant", Qdrant())):
        settings = IndexSettings(passages=Passages(size=40), engine=engine)
        built = build([rows], tmp_path / name, encoder, settings)
        assert built.artifact.manifest.metrics["documents"] == 36
        with Searcher.open(tmp_path / name, encoder) as searcher:
            assert delete(searcher.index, ["doc5"])["documents"] == 1
            more = tmp_path / "more.jsonl"
            more.write_text(json.dumps({"id": "doc0", "text": "rewritten zebra stripes"}), encoding="utf-8")
            assert add(searcher.index, searcher.retrievers, [more])["replaced"] == 1
        with Searcher.open(tmp_path / name, encoder) as searcher:
            queries = [(q, m) for q in ("violin orchestra wind", "zebra", "mark7x0 pan") for m in searcher.index.modes]
            answers.append([[(f.document, f.number) for f in searcher.search(q, 5, m).hits] for q, m in queries])
            assert searcher.search("zebra", 1).hits[0].document == "doc0"
    assert answers[0] == answers[1]


def test_changes_outlive_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from encodery.search.engine.qdrant import Qdrant; from encodery.search.store import Fields, Point\n"
        "store = Qdrant().create(Path(sys.argv[1]), Fields())\n"
        "for i in range(20): store.upsert([Point(f'd{i}', 0, f'word{i}', None)])\n"
        "store.delete_documents(['d3']); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], timeout=60)
    assert done.returncode == -9
    with (tmp_path / "s" / "journal.jsonl").open("ab") as file:
        file.write(b'{"points": [{"payl')  # as a process killed while writing leaves it
    for _ in range(2):
        with Qdrant().open(tmp_path / "s") as store:
            assert store.count() == 19
            assert list(bm25_scores(store, "word19")) == ["d19"]
            assert store.search_bm25("word3", 1) == []
    with Qdrant().open(tmp_path / "s"), pytest.raises(ArtifactError, match="in use"):
        Qdrant().open(tmp_path / "s")


class Failing:
    """A client whose server is away for some requests."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0

    def ping(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise ConnectionError("refused")
        return "here"


def test_what_a_server_fails_at_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from encodery.search.engine import _client

    monkeypatch.setattr(_client, "PAUSE", 0.0)
    client = Failing(2)
    assert RetryingClient(client, "http://there", 2)(lambda c: c.ping()) == "here"
    assert client.calls == 3
    with pytest.raises(ArtifactError, match=r"http://there.*2 attempts.*refused"):
        RetryingClient(Failing(9), "http://there", 1)(lambda c: c.ping())
    with pytest.raises(ArtifactError, match="http://there"):
        RetryingClient(Failing(0), "http://there", 5)(lambda c: c.absent())


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    engine = Qdrant(url="http://127.0.0.1:9", retries=0, timeout=2)
    with pytest.raises(ArtifactError, match=r"http://127\.0\.0\.1:9"):
        engine.create(tmp_path / "s", Fields())


def test_the_key_is_read_from_the_environment_and_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qdrant_client

    connection_settings: dict[str, Any] = {}

    class Client(qdrant_client.QdrantClient):
        def __init__(self, **settings: Any) -> None:
            connection_settings.update(settings)
            super().__init__(":memory:")

        def create_payload_index(self, *_: Any, **__: Any) -> None:
            """The stand-in warns that it has no use for them."""

    monkeypatch.setattr(qdrant_client, "QdrantClient", Client)
    monkeypatch.setenv("MY_KEY", "s3cret")
    with Qdrant(url="https://there", key_from="MY_KEY", collection="mine").create(tmp_path / "s", Fields()):
        assert connection_settings["api_key"] == "s3cret"
        text = "".join(file.read_text() for file in (tmp_path / "s").iterdir())
        assert "s3cret" not in text
        assert "mine-" in text


def test_what_is_missing_or_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="url"):
        Qdrant(url="there:6333")
    with pytest.raises(SettingsError, match="english"):
        Qdrant(language="englsh").create(tmp_path / "s", Fields())
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingExtra, match=r"encodery\[qdrant\]"):
        Qdrant().create(tmp_path / "s", Fields())
