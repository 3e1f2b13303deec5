"""Qdrant Edge: the embedded engine. Words, vectors and metadata in one folder, a write-ahead log, no server.

BM25 is the engine's own, over a text index that keeps true document lengths and frequencies:
    sum over query words t, as often as they stand there, of
        ln(1 + (N - n_t + 1/2) / (n_t + 1/2)) · f (k + 1) / (f + k (1 - b + b L / L̄))
with f the word's count in the passage, L its length, L̄ the mean, n_t the passages that hold t. Statistics are those
of the whole index, whatever the filter; deleted passages leave them when the store settles. Words are cut by the
engine's multilingual analyser: Chinese, Japanese and Thai by dictionary (a Japanese query without any kana is cut as
Chinese), Korean and all others at spaces and marks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError, SettingsError, nearest
from encodery.base.extras import require
from encodery.search.engine import Engine
from encodery.search.engine._edge import EdgeStore, named
from encodery.search.store import DOCUMENT, METADATA, NUMBER, TEXT, Store

CONFIG = "edge_config.json"


@dataclass(frozen=True, kw_only=True)
class Edge(Engine):
    """`language`: stop words and stemmer of BM25, `none` for neither; words are found in every script.
    `k`, `b`: BM25's saturation and length normalisation. `graph_from`: number of vectors from which an HNSW graph
    is built; below it every query looks at every vector. `keywords`: metadata fields made fast to filter on."""

    language: str = "english"
    k: float = 1.2
    b: float = 0.75
    graph_from: int = 250_000
    keywords: tuple[str, ...] = ("source",)

    def __post_init__(self) -> None:
        if not (self.k >= 0 and 0 <= self.b <= 1):
            raise SettingsError(f"k = {self.k}, b = {self.b}: k is at least 0, b between 0 and 1.")
        if self.graph_from < 1:
            raise SettingsError(f"graph_from = {self.graph_from}: must be positive.")

    def create(self, folder: Path, width: int | None) -> Store:
        edge = require("qdrant_edge", extra="search")
        analyser = self._analyser(edge)
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: holds a store already.")
        folder.mkdir(parents=True, exist_ok=True)
        # The engine wants a vector field of some kind even where only words are stored.
        dense = {"dense": edge.EdgeVectorParams(size=width, distance=edge.Distance.Dot)} if width else None
        unused = None if width else {"unused": edge.EdgeSparseVectorParams()}
        kilobytes = self.graph_from * (width or 1) * 4 // 1024
        optimizers = edge.EdgeOptimizersConfig(
            indexing_threshold=max(kilobytes, 1),
            default_segment_number=1,
            deleted_threshold=0.01,
            vacuum_min_vector_number=100,
        )
        config = edge.EdgeConfig(vectors=dense, sparse_vectors=unused, optimizers=optimizers)
        with named(folder):
            shard = edge.EdgeShard.create(str(folder), config)
            fields: dict[str, Any] = {
                TEXT: edge.TextIndexParams(scoring=True, **analyser),
                DOCUMENT: edge.KeywordIndexParams(),
                NUMBER: edge.IntegerIndexParams(),
            }
            fields |= {f"{METADATA}.{name}": edge.KeywordIndexParams() for name in self.keywords}
            for name, schema in fields.items():
                shard.update(edge.UpdateOperation.create_field_index(name, schema))
            shard.flush()
        return self._opened(edge, shard, folder, width)

    def open(self, folder: Path) -> Store:
        edge = require("qdrant_edge", extra="search")
        if not (folder / CONFIG).is_file():
            raise ArtifactError(f"{folder}: holds no store of this engine.")
        with named(folder):
            shard = edge.EdgeShard.load(str(folder))
        return self._opened(edge, shard, folder, _stored_width(folder))

    def _opened(self, edge: Any, shard: Any, folder: Path, width: int | None) -> Store:
        analyse = edge.Bm25(edge.Bm25Config(**self._analyser(edge)))
        scoring = edge.Bm25Params(k=self.k, b=self.b)
        return EdgeStore(shard, folder, scoring, analyse, self.graph_from, width)

    def _analyser(self, edge: Any) -> dict[str, Any]:
        """Words of any script, accents folded, lower case; stop words and stems of the language."""
        shared = {"tokenizer": edge.TokenizerType.Multilingual, "lowercase": True, "ascii_folding": True}
        if self.language == "none":
            return {**shared, "stemmer": edge.DisabledStemmer(), "stopwords": edge.StopwordsSet()}
        known = {name.lower(): name for name in dir(edge.SnowballLanguage) if name[0].isupper()}
        if self.language not in known:
            raise SettingsError(
                f"language = '{self.language}': there is no stemmer for it.{nearest(self.language, known)} "
                f"Languages are none, {', '.join(sorted(known))}."
            )
        name = known[self.language]
        stopwords = getattr(edge.Language, name, None) or edge.StopwordsSet()
        return {**shared, "stemmer": edge.SnowballParams(getattr(edge.SnowballLanguage, name)), "stopwords": stopwords}


def _stored_width(folder: Path) -> int | None:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        sizes = [int(entry["size"]) for entry in (config.get("vectors") or {}).values()]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{folder / CONFIG}: damaged: {error}") from error
    return sizes[0] if sizes else None
