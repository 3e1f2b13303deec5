"""Qdrant as a server or cluster, through `qdrant-client`.

The folder of the index holds its settings, the server the passages.
Differs from `edge`: many processes may search and change one index, which may be larger than this machine. BM25 is a
sparse vector of term weights: the server supplies the rarity of each term (`modifier: idf`, the same formula as
`edge`), the weights come from this package, over the same analyser, so both engines rank alike (`_qdrant.py` says how
the weights stay right as passages come and go). On small collections all results equal those of `edge`.

If `url` is empty there is no server: the client's in-memory store is used, filled from a journal in the folder whenever
it is opened, for trials with a few thousand passages. (The client's own files are pickles, which this package neither
writes nor reads.) The in-memory store holds all vectors in float32, whatever the precision.
`deploy/qdrant/compose.yaml` starts a server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.base.artifact import atomic_write
from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.base.extras import require
from encodery.search.engine import SearchEngine
from encodery.search.engine._analyser import AUTO, Analyser, analyser_settings, check_bm25_parameters, language_of
from encodery.search.engine._client import RetryingClient
from encodery.search.engine._journal import PointJournal
from encodery.search.engine._points import DATATYPES, DENSE, TERMS, TOKENS, graph_threshold_kb
from encodery.search.engine._qdrant import BM25, LENGTH, Note, QdrantStore
from encodery.search.store import DOCUMENT, METADATA, NUMBER, Fields, Store

NOTE = "collection.json"


@dataclass(frozen=True, kw_only=True)
class Qdrant(SearchEngine):
    """Use it if several machines search one index, or if the index is larger than one machine.

    Args:
        url: of the server; empty for the in-memory store.
        key_from: the environment variable with the API key, which is stored nowhere.
        collection: prefix of the collection's name; a random suffix is added.
        grpc, grpc_port: use the faster protocol, on this port.
        timeout: seconds per request.
        retries: of requests that fail because of the server.
        batch: points per request.
        shards, replicas: of the collection.
        language, k, b, graph_from, keywords: as for `edge`.
        drift: relative change of the mean length after which `compact` computes BM25's weights again.

    Example: `encodery search index corpus --model run --out index engine.is=qdrant engine.url=http://localhost:6333`
    """

    url: str = ""
    key_from: str = "QDRANT_API_KEY"
    collection: str = "encodery"
    grpc: bool = False
    grpc_port: int = 6334
    timeout: int = 60
    retries: int = 4
    batch: int = 256
    shards: int = 1
    replicas: int = 1
    language: str = AUTO
    k: float = 1.2
    b: float = 0.75
    graph_from: int = 250_000
    keywords: tuple[str, ...] = ("source",)
    drift: float = 0.02

    def __post_init__(self) -> None:
        check_bm25_parameters(self.k, self.b)
        positive = ("grpc_port", "timeout", "batch", "shards", "replicas", "graph_from")
        for name in positive:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)}: must be positive.")
        if self.retries < 0 or self.drift < 0:
            raise SettingsError(f"retries = {self.retries}, drift = {self.drift}: are at least 0.")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise SettingsError(f"url = '{self.url}': begins with http:// or https://; '' is the stand-in without one.")

    def for_texts(self, texts: Iterable[str]) -> Qdrant:
        return replace(self, language=language_of(texts)) if self.language == AUTO else self

    def create(self, folder: Path, fields: Fields) -> Store:
        edge, asking = self._packages(), self._asking(folder)
        analyser_settings(edge, self.language)
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: holds a store already.")
        folder.mkdir(parents=True, exist_ok=True)
        note = Note(f"{self.collection}-{uuid.uuid4().hex[:12]}", self.url, fields, None)
        journal = None if self.url else PointJournal(folder)
        # Stored before the collection is created, so that an interrupted creation can be found and removed.
        atomic_write(folder / NOTE, note.text())
        try:
            self._make(asking, note)
        except ArtifactError:
            (folder / NOTE).unlink()
            raise
        return self._store(edge, asking, folder, note, journal)

    def open(self, folder: Path) -> Store:
        edge = self._packages()
        if not (folder / NOTE).is_file():
            raise ArtifactError(f"{folder}: holds no store of this engine.")
        note = Note.read(folder / NOTE)
        engine = replace(self, url=note.url)
        asking = engine._asking(folder)
        journal = None if note.url else PointJournal(folder)
        if journal is None:
            if not asking(lambda client: client.collection_exists(note.name)):
                raise ArtifactError(f"{folder}: its collection '{note.name}' is not at {note.url}.")
            return engine._store(edge, asking, folder, note, None)
        engine._make(asking, note)
        store = engine._store(edge, asking, folder, note, None)
        for added, removed in journal.changes():
            store.upsert(added)
            store.forget(removed)
        store.journal = journal
        return store

    def remote_cleanup(self, folder: Path) -> Callable[[], None]:
        if not (folder / NOTE).is_file():
            return lambda: None
        note = Note.read(folder / NOTE)
        asking = replace(self, url=note.url)._asking(folder)
        return lambda: asking(lambda client: client.delete_collection(note.name)) if note.url else None

    def scratch_engine(self) -> SearchEngine:
        return replace(self, url="")

    def _packages(self) -> Any:
        """The package of the analyser, after checking that both packages are installed."""
        require("qdrant_client", extra="qdrant")
        return require("qdrant_edge", extra="qdrant")

    def _asking(self, folder: Path) -> RetryingClient:
        qdrant = require("qdrant_client", extra="qdrant")
        if not self.url:
            return RetryingClient(qdrant.QdrantClient(":memory:"), str(folder), 0)
        client = qdrant.QdrantClient(
            url=self.url,
            api_key=machine.environment_secret(self.key_from),
            prefer_grpc=self.grpc,
            grpc_port=self.grpc_port,
            timeout=self.timeout,
            check_compatibility=False,
        )
        return RetryingClient(client, self.url, self.retries)

    def _make(self, asking: RetryingClient, note: Note) -> None:
        from qdrant_client import models

        fields = note.fields
        datatype = models.Datatype(DATATYPES[fields.precision])
        bits = None
        if fields.precision == "binary":
            one = models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS1, memory=models.Memory.PINNED)
            bits = models.TurboQuantization(turbo=one)
        dense: dict[str, Any] = {}
        if fields.dense_dim is not None:
            dense[DENSE] = models.VectorParams(
                size=fields.dense_dim, distance=models.Distance.DOT, datatype=datatype, quantization_config=bits
            )
        if fields.multi_vector_dim is not None:
            late = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            dense[TOKENS] = models.VectorParams(
                size=fields.multi_vector_dim,
                distance=models.Distance.DOT,
                datatype=datatype,
                multivector_config=late,
                hnsw_config=models.HnswConfigDiff(m=0),
            )
        sparse = {BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)}
        if fields.sparse:
            sparse[TERMS] = models.SparseVectorParams()
        graph = models.OptimizersConfigDiff(indexing_threshold=graph_threshold_kb(fields, self.graph_from))
        asking(
            lambda client: client.create_collection(
                note.name,
                vectors_config=dense,
                sparse_vectors_config=sparse,
                shard_number=self.shards,
                replication_factor=self.replicas,
                optimizers_config=graph,
            )
        )
        if not self.url:
            return  # The in-memory store does not index metadata.
        kinds = {DOCUMENT: "keyword", NUMBER: "integer", LENGTH: "integer"}

        def index(name: str, kind: str) -> None:
            asking(lambda client: client.create_payload_index(note.name, name, kind, wait=True))

        for name, kind in (kinds | {f"{METADATA}.{name}": "keyword" for name in self.keywords}).items():
            index(name, kind)

    def _store(
        self, edge: Any, asking: RetryingClient, folder: Path, note: Note, journal: PointJournal | None
    ) -> QdrantStore:
        words = Analyser(edge, self.language)
        formula = (self.k, self.b, self.drift)

        def keep(changed: Note) -> None:
            atomic_write(folder / NOTE, changed.text())

        return QdrantStore(asking, folder, note, words, formula, (self.batch, self.graph_from), keep, journal)
