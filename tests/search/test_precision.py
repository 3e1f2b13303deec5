"""Vectors in fewer bits: what an index reports, their size on disk, what is sent to a server, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, SettingsError
from encodery.base.settings import decode, decode_with_overrides, encode, parse_overrides
from encodery.search.build import IndexSettings, build
from encodery.search.engine import SearchEngine
from encodery.search.engine._client import RetryingClient
from encodery.search.engine._qdrant import Note
from encodery.search.engine.edge import CONFIG, Edge
from encodery.search.engine.qdrant import Qdrant
from encodery.search.exact_recall import exact_recall
from encodery.search.passages import Passages
from encodery.search.searcher import Searcher
from encodery.search.store import Fields, Point, Precision

KINDS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "binary")
VECTORS = np.random.default_rng(0).standard_normal((600, 64)).astype(np.float32)
POINTS = [Point(f"d{i}", 0, "text", row) for i, row in enumerate(VECTORS)]


@pytest.mark.parametrize("engine", [Edge(), Qdrant()], ids=["edge", "qdrant"])
def test_an_index_of_fewer_bits_answers_and_says_how_near_it_is(
    rows: Path, tmp_path: Path, encoder: Any, engine: SearchEngine
) -> None:
    settings = {
        kind: IndexSettings(passages=Passages(size=40), engine=engine, vectors=kind, weight=0.5) for kind in KINDS
    }
    answers = {}
    for kind in KINDS:
        metrics = build([rows], tmp_path / kind, encoder, settings[kind]).artifact.manifest.metrics
        assert metrics["vectors"] == kind
        assert ("exact_recall" in metrics) == (kind != "fp32")
        assert metrics.get("exact_recall", 1.0) > 0.9
        with Searcher.open(tmp_path / kind, encoder) as searcher:
            answers[kind] = searcher.search("garlic butter simmer mark0x0", 5)
    best = [hit.document for hit in answers["fp32"].hits]
    for kind in KINDS:
        assert len({hit.document for hit in answers[kind].hits} & set(best)) >= 4
        assert answers[kind].hits[0].document == best[0]
    with pytest.raises(ArtifactError, match="other settings"):
        build([rows], tmp_path / "int8", encoder, settings["fp16"])


def test_fewer_bits_take_less_room(tmp_path: Path) -> None:
    taken = {}
    for kind in KINDS:
        with Edge().create(tmp_path / kind, Fields(dense_dim=64, precision=kind)) as store:
            store.upsert(POINTS)
            store.compact()
        files = (tmp_path / kind / "segments").rglob("*vector_storage-dense/**/*")
        taken[kind] = sum(file.stat().st_blocks * 512 for file in files if file.is_file())
    assert taken["int8"] < taken["fp16"] < taken["binary"] < taken["fp32"]
    assert taken["fp32"] - taken["int8"] > 600 * 64 * 2


@pytest.mark.parametrize("precision", KINDS)
def test_a_graph_is_built_from_the_same_number_of_vectors(tmp_path: Path, precision: Precision) -> None:
    for graph_from, built in ((500, True), (700, False)):
        folder = tmp_path / str(graph_from)
        with Edge(graph_from=graph_from).create(folder, Fields(dense_dim=64, precision=precision)) as store:
            store.upsert(POINTS)
            store.compact()
            best = {POINTS[i].id for i in np.argsort(-(VECTORS @ VECTORS[3]))[:10]}
            assert len(best & {hit.id for hit in store.search_dense(VECTORS[3], 10)}) >= 8
        assert any(folder.rglob("links*.bin")) == built


def test_agreement_is_the_share_of_true_neighbours(tmp_path: Path) -> None:
    with Edge().create(tmp_path / "right", Fields(dense_dim=64)) as store:
        store.upsert(POINTS)
        assert exact_recall(store, POINTS) == 1.0
        assert exact_recall(store, POINTS[:10]) is None
    turned = [Point(point.document, 0, "text", VECTORS[-1 - i]) for i, point in enumerate(POINTS)]
    with Edge().create(tmp_path / "wrong", Fields(dense_dim=64)) as store:
        store.upsert(turned)
        recall = exact_recall(store, POINTS)
    assert recall is not None
    assert recall < 0.2


class Recorder:
    """A client that only records its calls."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.request: dict[str, Any] = {}

    def create_collection(self, name: str, **settings: Any) -> None:
        self.made = settings

    def create_payload_index(self, *_: Any, **__: Any) -> None:
        pass

    def count(self, *_: Any, **__: Any) -> Any:
        return type("Counted", (), {"count": 600})

    def query_points(self, name: str, **request: Any) -> Any:
        self.request = request
        return type("Found", (), {"points": []})


def test_the_precision_is_sent_to_a_server(tmp_path: Path) -> None:
    import qdrant_edge

    from encodery.search.engine._analyser import Analyser
    from encodery.search.engine._qdrant import QdrantStore

    for kind, datatype in zip(KINDS, ("float32", "float16", "turbo8", "float16"), strict=True):
        client = Recorder()
        asking, engine = RetryingClient(client, "server", 0), Qdrant(url="http://localhost:6333")
        note = Note("c", engine.url, Fields(dense_dim=64, multi_vector_dim=8, precision=kind), None)
        engine._make(asking, note)
        dense, tokens = (client.made["vectors_config"][name] for name in ("dense", "tokens"))
        assert dense.datatype == tokens.datatype == datatype
        assert (dense.quantization_config is not None) == (kind == "binary")
        store = QdrantStore(
            asking,
            tmp_path,
            note,
            Analyser(qdrant_edge, "none"),
            (1.2, 0.75, 0.02),
            (256, 250_000),
            lambda _: None,
            None,
        )
        assert store.search_dense(VECTORS[0], 10) == []
        params = client.request["search_params"]
        assert params.exact == (kind != "binary")
        if kind == "binary":
            assert params.quantization.rescore
            assert params.quantization.oversampling * 10 >= 128
        (tmp_path / "note.json").write_text(note.text())
        assert Note.read(tmp_path / "note.json") == note


def test_unknown_kinds_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"vectors.*int4.*'fp32', 'fp16', 'int8' or 'binary'"):
        decode_with_overrides(IndexSettings, {}, parse_overrides(["vectors=int4"]))
    held = encode(IndexSettings()) | {"vectors": "product"}
    with pytest.raises(SettingsError, match=r"product.*'fp32', 'fp16', 'int8' or 'binary'"):
        decode(IndexSettings, held, where="manifest")
    Edge().create(tmp_path / "s", Fields(dense_dim=8)).close()
    config = json.loads((tmp_path / "s" / CONFIG).read_text())
    config["vectors"]["dense"]["datatype"] = "uint8"
    (tmp_path / "s" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"uint8|datatype"):
        Edge().open(tmp_path / "s")
