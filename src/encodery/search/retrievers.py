"""What a model adds to a passage and looks for in a query: a vector, a learned sparse vector, or a vector a token.

A side is told by the model's settings: trained for sparse vectors (`encoders/sparse.py`), for a vector a token
(`encoders/multi_vector.py`), else one vector a text. Stored prompts named "query" and "document" are used where there are.
Shapes: N texts, Q queries, P passages, H width of a vector, n tokens, K width of a token's vector.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from encodery.base.errors import InputError
from encodery.encoders import multi_vector, sparse
from encodery.encoders.dense import DenseEncoder
from encodery.encoders.exported import parse_runtime
from encodery.encoders.postprocessing import PostProcessing
from encodery.encoders.text_windows import token_offsets
from encodery.search.encoder import TextEncoder
from encodery.search.filters import Condition
from encodery.search.runtime_provenance import (
    TORCH,
    RuntimeProvenance,
    check_batch_invariance,
    model_fingerprint_of,
    provenance_of,
)
from encodery.search.store import Hit, SparseVector, Store

QUERY, DOCUMENT = "query", "document"
Field = Literal["dense", "sparse", "multi_vector"]


@dataclass(frozen=True, eq=False)
class PassageEncodings:
    """What N passages get: `values` are vectors (H,), `Terms`, or vectors of tokens (n, K); of them all, the `tokens`
    read and those `dropped`."""

    values: Sequence[Any]
    tokens: int
    dropped: int


class Retriever(abc.ABC):
    """A way to find passages. `mode`: its name in queries; `key`: the field of `Found` with its score. `from_zero`:
    a passage it does not find has the score 0, which is the least there is."""

    mode: ClassVar[str]
    key: ClassVar[str]
    from_zero: ClassVar[bool]

    @abc.abstractmethod
    def encode_query(self, text: str) -> Any:
        """What is looked for. A query longer than the model takes is read in windows."""

    @abc.abstractmethod
    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        """The best passages for what `query` gave."""


class BM25Retriever(Retriever):
    """BM25, which needs no model."""

    mode, key, from_zero = "bm25", "bm25", True

    def encode_query(self, text: str) -> str:
        return text

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_bm25(query, limit, conditions, among)


class ModelRetriever(Retriever):
    """A way to find passages by a model. `field`: what it fills in a `Point`; `longest`: tokens of a passage that are
    read whole; `width` of its vectors; `fingerprint` of its model, and by what that is `ran`."""

    field: ClassVar[Field]
    max_length: int
    dim: int
    fingerprint: str
    provenance: RuntimeProvenance = TORCH

    @abc.abstractmethod
    def token_offsets(self, text: str) -> np.ndarray:
        """Characters [begin, end) (n, 2) of each token."""

    @abc.abstractmethod
    def encode_passages(self, texts: Sequence[str]) -> PassageEncodings:
        """What passages get, raw: the steps an index finishes vectors by come after. Too long ones lose their end."""

    @abc.abstractmethod
    def similarity(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        """(Q, P) scores of what `query` gave with what `encode` gave, vectors finished."""

    def with_postprocess(self, postprocess: PostProcessing | None) -> ModelRetriever:
        """The side of an index that finishes vectors so."""
        return self

    def check_batch_invariance(self) -> None:
        """Raises `SettingsError` where what it gives a text depends on the texts beside it."""


class DenseRetriever(ModelRetriever):
    """One vector a text. `finishing`: the index's own steps after the model's."""

    mode, key, from_zero, field = "dense", "dense", False, "dense"

    def __init__(self, encoder: TextEncoder, finishing: PostProcessing | None = None) -> None:
        self.encoder, self.postprocess = encoder, finishing
        self.dim, self.fingerprint, self.provenance = (
            encoder.dimension,
            model_fingerprint_of(encoder),
            provenance_of(encoder),
        )
        self.max_length = encoder.max_content_tokens
        if DOCUMENT in encoder.prompts:
            self.max_length = max(self.max_length - len(encoder.token_offsets(encoder.prompts[DOCUMENT])), 1)

    def token_offsets(self, text: str) -> np.ndarray:
        return self.encoder.token_offsets(text)

    def encode_passages(self, texts: Sequence[str]) -> PassageEncodings:
        found = self.encoder.encode(texts, truncate="right", prompt=self._prompt(DOCUMENT))
        return PassageEncodings(list(found.vectors), int(found.tokens.sum()), int(found.dropped.sum()))

    def encode_query(self, text: str) -> np.ndarray:
        found = self.encoder.encode([text], truncate="chunk", prompt=self._prompt(QUERY)).vectors
        vector: np.ndarray = (found if self.postprocess is None else self.postprocess.apply(found))[0]
        return vector

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_dense(query, limit, conditions, among)

    def similarity(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        found: np.ndarray = np.stack(queries) @ np.stack(passages).T
        return found

    def with_postprocess(self, postprocess: PostProcessing | None) -> DenseRetriever:
        return DenseRetriever(self.encoder, postprocess)

    def check_batch_invariance(self) -> None:
        check_batch_invariance(self.encoder, self.provenance)

    def _prompt(self, role: str) -> str | None:
        return role if role in self.encoder.prompts else None


class _Prompted(ModelRetriever):
    """By an encoder that was trained with a prompt for each of the two roles."""

    def __init__(self, encoder: sparse.SparseEncoder | multi_vector.MultiVectorEncoder) -> None:
        self.encoder = encoder
        self.dim, self.fingerprint = encoder.dimension, encoder.fingerprint
        before = token_offsets(encoder.tokenizer, encoder.settings.prompts.get(DOCUMENT, ""))
        self.max_length = max(encoder.max_content_tokens - len(before), 1)

    def token_offsets(self, text: str) -> np.ndarray:
        return token_offsets(self.encoder.tokenizer, text)


class SparseRetriever(_Prompted):
    """A weight for each word of the model's vocabulary, most of them zero."""

    mode, key, from_zero, field = "sparse", "sparse", True, "sparse"

    encoder: sparse.SparseEncoder

    def encode_passages(self, texts: Sequence[str]) -> PassageEncodings:
        found = self.encoder.encode(texts, truncate="right", prompt=DOCUMENT)
        rows = [self._terms(*found.at(number)) for number in range(len(texts))]
        return PassageEncodings(rows, int(found.tokens.sum()), int(found.dropped.sum()))

    def encode_query(self, text: str) -> SparseVector:
        return self._terms(*self.encoder.encode([text], truncate="chunk", prompt=QUERY).at(0))

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_sparse(query, limit, conditions, among)

    def similarity(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        words = np.concatenate([passage.term_ids for passage in passages])
        weights = np.concatenate([passage.weights for passage in passages])
        owner = np.repeat(np.arange(len(passages)), [len(passage.term_ids) for passage in passages])
        found = np.zeros((len(queries), len(passages)), np.float64)
        for row, asked in enumerate(queries):
            table = np.zeros(self.dim, np.float32)
            table[asked.term_ids] = asked.weights
            found[row] = np.bincount(owner, table[words] * weights, len(passages))
        return found

    @staticmethod
    def _terms(words: np.ndarray, weights: np.ndarray) -> SparseVector:
        order = np.argsort(words, kind="stable")
        return SparseVector(words[order].astype(np.int64), weights[order].astype(np.float32))


class MultiVectorRetriever(_Prompted):
    """A vector for each token, compared late (MaxSim)."""

    mode, key, from_zero, field = "multi_vector", "multi_vector", False, "multi_vector"

    encoder: multi_vector.MultiVectorEncoder

    def encode_passages(self, texts: Sequence[str]) -> PassageEncodings:
        found = self.encoder.encode(texts, truncate="right", prompt=DOCUMENT)
        rows = [found.at(number) for number in range(len(texts))]
        return PassageEncodings(rows, len(found.vectors), int(found.dropped.sum()))

    def encode_query(self, text: str) -> np.ndarray:
        return self.encoder.encode([text], truncate="chunk", prompt=QUERY).at(0)

    def retrieve(
        self, store: Store, query: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.search_multi_vector(query, limit, conditions, among)

    def similarity(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        ends = np.cumsum([len(passage) for passage in passages])
        rows, starts = np.concatenate(passages), np.concatenate([[0], ends[:-1]])
        return np.stack([np.maximum.reduceat(asked @ rows.T, starts, axis=1).sum(axis=0) for asked in queries])


SIDES: dict[str, type[ModelRetriever]] = {
    side.mode: side for side in (DenseRetriever, SparseRetriever, MultiVectorRetriever)
}


def mode_of(folder: str | Path) -> str:
    """The side that the model of a folder (or run) gives, told without loading it: dense, sparse or late."""
    from encodery.base.artifact import Artifact

    for artifact in Artifact.find_all(folder):
        settings = artifact.manifest.settings
        if sparse.KEY in settings or multi_vector.KEY in settings:
            return SparseRetriever.mode if sparse.KEY in settings else MultiVectorRetriever.mode
    return DenseRetriever.mode


def load_retriever(folder: str | Path, runtime: str | None = None) -> ModelRetriever:
    """The side of a model's folder or run. `runtime`: the name of one, or the folder of an export to onnx or openvino,
    that runs a model of one vector a text; others run as they are."""
    from encodery.model.load import load_model

    loaded, mode = load_model(folder), mode_of(folder)
    if mode == SparseRetriever.mode:
        return SparseRetriever(sparse.SparseEncoder.from_loaded(loaded))
    if mode == MultiVectorRetriever.mode:
        return MultiVectorRetriever(multi_vector.MultiVectorEncoder.from_loaded(loaded))
    if runtime is None:
        return DenseRetriever(DenseEncoder.from_loaded(loaded))
    return DenseRetriever(DenseEncoder.from_loaded(loaded, "cpu").with_runtime(parse_runtime(runtime)))


def load_retrievers(models: Sequence[Path], runtime: str | None) -> tuple[list[ModelRetriever], dict[str, Path]]:
    """Models as sides, and mode -> where each lies. Raises `InputError` for a runtime that would run none of them."""
    sides = [load_retriever(model, runtime) for model in models]
    if runtime is not None and not any(isinstance(side, DenseRetriever) for side in sides):
        given = ", ".join(side.mode for side in sides) or "none"
        raise InputError(f"--runtime {runtime}: runs models of one vector a text; given: {given}.")
    return sides, {side.mode: model for side, model in zip(sides, models, strict=True)}


def as_retriever(
    encoder: ModelRetriever | TextEncoder | sparse.SparseEncoder | multi_vector.MultiVectorEncoder,
) -> ModelRetriever:
    """An encoder as a side."""
    if isinstance(encoder, sparse.SparseEncoder):
        return SparseRetriever(encoder)
    if isinstance(encoder, multi_vector.MultiVectorEncoder):
        return MultiVectorRetriever(encoder)
    return encoder if isinstance(encoder, ModelRetriever) else DenseRetriever(encoder)


def as_retrievers(encoders: Any) -> tuple[ModelRetriever, ...]:
    """None, one encoder or side, or several, in the order of modes. Raises `InputError` for two of one kind."""
    several = () if encoders is None else encoders if isinstance(encoders, tuple | list) else (encoders,)
    found = [as_retriever(one) for one in several]
    modes = [side.mode for side in found]
    for mode in modes:
        if modes.count(mode) > 1:
            raise InputError(f"Two models for {mode} search: an index has one of each kind, {', '.join(SIDES)}.")
    return tuple(sorted(found, key=lambda side: list(SIDES).index(side.mode)))
