"""Qdrant Edge, an embedded engine without a server: text, embeddings, metadata and a write-ahead log in one folder.

BM25 is the engine's own, over a text index with exact document lengths and frequencies:
    sum over query terms t, as often as they occur in the query, of
        ln(1 + (N - n_t + 1/2) / (n_t + 1/2)) · f (k + 1) / (f + k (1 - b + b L / L̄))

with f the count of the term in the passage, L its length, L̄ the mean length, n_t the passages that contain t.
Statistics are those of the whole index, whatever the filter; deleted passages leave them when the store is compacted.
Texts are divided at spaces and marks. In an index of a language without spaces (Chinese, Japanese, Thai, Khmer) each
character with its marks is a term; they are set apart in a copy of the text that is indexed in its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.errors import ArtifactError, InputError, SettingsError
from encodery.base.extras import require
from encodery.search.engine import SearchEngine
from encodery.search.engine._analyser import AUTO, Analyser, analyser_settings, check_bm25_parameters, language_of
from encodery.search.engine._edge import EdgeStore, bm25_field, translated_errors
from encodery.search.engine._points import DATATYPES, DENSE, TERMS, TOKENS, graph_threshold_kb
from encodery.search.store import DOCUMENT, METADATA, NUMBER, Fields, Precision, Store

CONFIG = "edge_config.json"


@dataclass(frozen=True, kw_only=True)
class Edge(SearchEngine):
    """Use it for an index on one machine: it needs no server.

    Args:
        language: of the stop words and the stemmer of BM25; `none` for neither; `auto` finds it in the documents.
            Words are found in every script.
        k, b: saturation and length normalisation of BM25.
        graph_from: number of vectors from which an HNSW graph is built; below it every query compares all vectors.
        keywords: metadata fields that are indexed, so that filters on them are fast.

    Example: `encodery search index corpus --model run --out index engine.language=german`
    """

    language: str = AUTO
    k: float = 1.2
    b: float = 0.75
    graph_from: int = 250_000
    keywords: tuple[str, ...] = ("source",)

    def __post_init__(self) -> None:
        check_bm25_parameters(self.k, self.b)
        if self.graph_from < 1:
            raise SettingsError(f"graph_from = {self.graph_from}: must be positive.")

    def for_texts(self, texts: Iterable[str]) -> Edge:
        return dataclasses.replace(self, language=language_of(texts)) if self.language == AUTO else self

    def create(self, folder: Path, fields: Fields) -> Store:
        edge = require("qdrant_edge", extra="search")
        words = analyser_settings(edge, self.language)
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: holds a store already.")
        folder.mkdir(parents=True, exist_ok=True)
        optimizers = edge.EdgeOptimizersConfig(
            indexing_threshold=graph_threshold_kb(fields, self.graph_from),
            default_segment_number=1,
            deleted_threshold=0.01,
            vacuum_min_vector_number=100,
        )
        dense, sparse = _vectors(edge, fields)
        config = edge.EdgeConfig(vectors=dense, sparse_vectors=sparse, optimizers=optimizers)
        with translated_errors(folder):
            shard = edge.EdgeShard.create(str(folder), config)
            indexed: dict[str, Any] = {
                bm25_field(self.language): edge.TextIndexParams(scoring=True, **words),
                DOCUMENT: edge.KeywordIndexParams(),
                NUMBER: edge.IntegerIndexParams(),
            }
            indexed |= {f"{METADATA}.{name}": edge.KeywordIndexParams() for name in self.keywords}
            for name, schema in indexed.items():
                shard.update(edge.UpdateOperation.create_field_index(name, schema))
            shard.flush()
        return self._opened(edge, shard, folder, fields)

    def open(self, folder: Path) -> Store:
        edge = require("qdrant_edge", extra="search")
        if not (folder / CONFIG).is_file():
            raise ArtifactError(f"{folder}: holds no store of this engine.")
        with translated_errors(folder):
            shard = edge.EdgeShard.load(str(folder))
        return self._opened(edge, shard, folder, _stored_fields(folder))

    def _opened(self, edge: Any, shard: Any, folder: Path, fields: Fields) -> Store:
        analyse = Analyser(edge, self.language)
        scoring = edge.Bm25Params(k=self.k, b=self.b)
        return EdgeStore(shard, folder, scoring, analyse, self.graph_from, fields)


def _vectors(edge: Any, fields: Fields) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The engine's own fields, dense and sparse."""
    kinds = edge.VectorStorageDatatype
    kind = {"float32": None, "float16": kinds.Float16, "turbo8": kinds.Turbo8}[DATATYPES[fields.precision]]
    bits = None
    if fields.precision == "binary":
        bits = edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits1, memory=edge.Memory.Pinned)
    dense: dict[str, Any] = {}
    if fields.dense_dim is not None:
        dense[DENSE] = edge.EdgeVectorParams(
            size=fields.dense_dim, distance=edge.Distance.Dot, datatype=kind, quantization_config=bits
        )
    if fields.multi_vector_dim is not None:
        # No graph over token vectors: it would cost more than all the rest, and they rank few passages or all.
        dense[TOKENS] = edge.EdgeVectorParams(
            size=fields.multi_vector_dim,
            distance=edge.Distance.Dot,
            datatype=kind,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=0),
        )
    sparse = {TERMS: edge.EdgeSparseVectorParams()} if fields.sparse else {}
    if not dense and not sparse:
        sparse = {
            "unused": edge.EdgeSparseVectorParams()
        }  # The engine needs one field of some kind, even for BM25 only.
    return dense or None, sparse or None


def _stored_fields(folder: Path) -> Fields:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        held: dict[str, Any] = config.get("vectors") or {}
        sizes = {name: int(entry["size"]) for name, entry in held.items()}
        terms = TERMS in (config.get("sparse_vectors") or {})
        precision = _precision(held.get(DENSE) or held.get(TOKENS) or {})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{folder / CONFIG}: damaged: {error}") from error
    return Fields(dense_dim=sizes.get(DENSE), sparse=terms, multi_vector_dim=sizes.get(TOKENS), precision=precision)


def _precision(entry: dict[str, Any]) -> Precision:
    """How the engine's settings say that vectors are stored. Raises `ValueError` for a way that this package does not
    use."""
    if entry.get("quantization_config") is not None:
        return "binary"
    named: dict[str, Precision] = {DATATYPES[one]: one for one in ("fp32", "fp16", "int8")}
    datatype = entry.get("datatype") or DATATYPES["fp32"]
    if datatype not in named:
        raise ValueError(f"vectors of datatype '{datatype}', not {', '.join(named)}")
    return named[datatype]
