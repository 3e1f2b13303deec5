"""What a model adds to a passage and looks for in a query: a vector, a learned sparse vector, or a vector a token.

A side is told by the model's settings: trained for sparse vectors (`embed/sparse.py`), for a vector a token
(`embed/multivector.py`), else one vector a text. Stored prompts named "query" and "document" are used where there are.
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
from encodery.embed import multivector, sparse
from encodery.embed.embedder import Embedder, token_offsets
from encodery.embed.exported import runtime_of
from encodery.embed.finishing import Finishing
from encodery.search.encoder import TextEncoder
from encodery.search.filters import Condition
from encodery.search.ran import TORCH, Ran, model_of, ran_of, refuse_unsteady
from encodery.search.store import Hit, Store, Terms

QUERY, DOCUMENT = "query", "document"
Field = Literal["vector", "terms", "tokens"]


@dataclass(frozen=True, eq=False)
class Columns:
    """What N passages get: `values` are vectors (H,), `Terms`, or vectors of tokens (n, K); of them all, the `tokens`
    read and those `dropped`."""

    values: Sequence[Any]
    tokens: int
    dropped: int


class Finder(abc.ABC):
    """A way to find passages. `mode`: its name in queries; `key`: the field of `Found` with its score. `from_zero`:
    a passage it does not find has the score 0, which is the least there is."""

    mode: ClassVar[str]
    key: ClassVar[str]
    from_zero: ClassVar[bool]

    @abc.abstractmethod
    def query(self, text: str) -> Any:
        """What is looked for. A query longer than the model takes is read in windows."""

    @abc.abstractmethod
    def find(
        self, store: Store, asked: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        """The best passages for what `query` gave."""


class Words(Finder):
    """BM25, which needs no model."""

    mode, key, from_zero = "bm25", "words", True

    def query(self, text: str) -> str:
        return text

    def find(
        self, store: Store, asked: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.by_words(asked, limit, conditions, among)


class Side(Finder):
    """A way to find passages by a model. `field`: what it fills in a `Point`; `longest`: tokens of a passage that are
    read whole; `width` of its vectors; `fingerprint` of its model, and by what that is `ran`."""

    field: ClassVar[Field]
    longest: int
    width: int
    fingerprint: str
    ran: Ran = TORCH

    @abc.abstractmethod
    def offsets(self, text: str) -> np.ndarray:
        """Characters [begin, end) (n, 2) of each token."""

    @abc.abstractmethod
    def encode(self, texts: Sequence[str]) -> Columns:
        """What passages get, raw: the steps an index finishes vectors by come after. Too long ones lose their end."""

    @abc.abstractmethod
    def similar(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        """(Q, P) scores of what `query` gave with what `encode` gave, vectors finished."""

    def finished(self, finishing: Finishing | None) -> Side:
        """The side of an index that finishes vectors so."""
        return self

    def storable(self) -> None:
        """Raises `SettingsError` where what it gives a text depends on the texts beside it."""


class Dense(Side):
    """One vector a text. `finishing`: the index's own steps after the model's."""

    mode, key, from_zero, field = "dense", "vector", False, "vector"

    def __init__(self, encoder: TextEncoder, finishing: Finishing | None = None) -> None:
        self.encoder, self.finishing = encoder, finishing
        self.width, self.fingerprint, self.ran = encoder.width, model_of(encoder), ran_of(encoder)
        self.longest = encoder.longest
        if DOCUMENT in encoder.prompts:
            self.longest = max(self.longest - len(encoder.offsets(encoder.prompts[DOCUMENT])), 1)

    def offsets(self, text: str) -> np.ndarray:
        return self.encoder.offsets(text)

    def encode(self, texts: Sequence[str]) -> Columns:
        found = self.encoder.encode(texts, truncate="right", prompt=self._prompt(DOCUMENT))
        return Columns(list(found.vectors), int(found.tokens.sum()), int(found.dropped.sum()))

    def query(self, text: str) -> np.ndarray:
        found = self.encoder.encode([text], truncate="chunk", prompt=self._prompt(QUERY)).vectors
        vector: np.ndarray = (found if self.finishing is None else self.finishing.apply(found))[0]
        return vector

    def find(
        self, store: Store, asked: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.by_vector(asked, limit, conditions, among)

    def similar(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        found: np.ndarray = np.stack(queries) @ np.stack(passages).T
        return found

    def finished(self, finishing: Finishing | None) -> Dense:
        return Dense(self.encoder, finishing)

    def storable(self) -> None:
        refuse_unsteady(self.encoder, self.ran)

    def _prompt(self, role: str) -> str | None:
        return role if role in self.encoder.prompts else None


class _Prompted(Side):
    """By an encoder that was trained with a prompt for each of the two roles."""

    def __init__(self, encoder: sparse.SparseEncoder | multivector.MultiVectorEncoder) -> None:
        self.encoder = encoder
        self.width, self.fingerprint = encoder.width, encoder.fingerprint
        before = token_offsets(encoder.tokenizer, encoder.settings.prompts.get(DOCUMENT, ""))
        self.longest = max(encoder.longest - len(before), 1)

    def offsets(self, text: str) -> np.ndarray:
        return token_offsets(self.encoder.tokenizer, text)


class Sparse(_Prompted):
    """A weight for each word of the model's vocabulary, most of them zero."""

    mode, key, from_zero, field = "sparse", "sparse", True, "terms"

    encoder: sparse.SparseEncoder

    def encode(self, texts: Sequence[str]) -> Columns:
        found = self.encoder.encode(texts, truncate="right", prompt=DOCUMENT)
        rows = [self._terms(*found.row(number)) for number in range(len(texts))]
        return Columns(rows, int(found.tokens.sum()), int(found.dropped.sum()))

    def query(self, text: str) -> Terms:
        return self._terms(*self.encoder.encode([text], truncate="chunk", prompt=QUERY).row(0))

    def find(
        self, store: Store, asked: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.by_terms(asked, limit, conditions, among)

    def similar(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        words = np.concatenate([passage.words for passage in passages])
        weights = np.concatenate([passage.weights for passage in passages])
        owner = np.repeat(np.arange(len(passages)), [len(passage.words) for passage in passages])
        found = np.zeros((len(queries), len(passages)), np.float64)
        for row, asked in enumerate(queries):
            table = np.zeros(self.width, np.float32)
            table[asked.words] = asked.weights
            found[row] = np.bincount(owner, table[words] * weights, len(passages))
        return found

    @staticmethod
    def _terms(words: np.ndarray, weights: np.ndarray) -> Terms:
        order = np.argsort(words, kind="stable")
        return Terms(words[order].astype(np.int64), weights[order].astype(np.float32))


class Late(_Prompted):
    """A vector for each token, compared late (MaxSim)."""

    mode, key, from_zero, field = "late", "late", False, "tokens"

    encoder: multivector.MultiVectorEncoder

    def encode(self, texts: Sequence[str]) -> Columns:
        found = self.encoder.encode(texts, truncate="right", prompt=DOCUMENT)
        rows = [found.row(number) for number in range(len(texts))]
        return Columns(rows, len(found.rows), int(found.dropped.sum()))

    def query(self, text: str) -> np.ndarray:
        return self.encoder.encode([text], truncate="chunk", prompt=QUERY).row(0)

    def find(
        self, store: Store, asked: Any, limit: int, conditions: Sequence[Condition], among: Sequence[str] | None = None
    ) -> list[Hit]:
        return store.by_tokens(asked, limit, conditions, among)

    def similar(self, queries: Sequence[Any], passages: Sequence[Any]) -> np.ndarray:
        ends = np.cumsum([len(passage) for passage in passages])
        rows, starts = np.concatenate(passages), np.concatenate([[0], ends[:-1]])
        return np.stack([np.maximum.reduceat(asked @ rows.T, starts, axis=1).sum(axis=0) for asked in queries])


SIDES: dict[str, type[Side]] = {side.mode: side for side in (Dense, Sparse, Late)}


def mode_of(folder: str | Path) -> str:
    """The side that the model of a folder (or run) gives, told without loading it: dense, sparse or late."""
    from encodery.base.artifact import Artifact

    for artifact in Artifact.held(folder):
        settings = artifact.manifest.settings
        if sparse.KEY in settings or multivector.KEY in settings:
            return Sparse.mode if sparse.KEY in settings else Late.mode
    return Dense.mode


def load(folder: str | Path, runtime: str | None = None) -> Side:
    """The side of a model's folder or run. `runtime`: the name of one, or the folder of an export to onnx or openvino,
    that runs a model of one vector a text; others run as they are."""
    from encodery.model.load import load_model

    loaded, mode = load_model(folder), mode_of(folder)
    if mode == Sparse.mode:
        return Sparse(sparse.SparseEncoder.of(loaded))
    if mode == Late.mode:
        return Late(multivector.MultiVectorEncoder.of(loaded))
    if runtime is None:
        return Dense(Embedder.of(loaded))
    return Dense(Embedder.of(loaded, "cpu").on(runtime_of(runtime)))


def loaded(models: Sequence[Path], runtime: str | None) -> tuple[list[Side], dict[str, Path]]:
    """Models as sides, and mode -> where each lies. Raises `InputError` for a runtime that would run none of them."""
    sides = [load(model, runtime) for model in models]
    if runtime is not None and not any(isinstance(side, Dense) for side in sides):
        given = ", ".join(side.mode for side in sides) or "none"
        raise InputError(f"--runtime {runtime}: runs models of one vector a text; given: {given}.")
    return sides, {side.mode: model for side, model in zip(sides, models, strict=True)}


def side_of(given: Side | TextEncoder | sparse.SparseEncoder | multivector.MultiVectorEncoder) -> Side:
    """An encoder as a side."""
    if isinstance(given, sparse.SparseEncoder):
        return Sparse(given)
    if isinstance(given, multivector.MultiVectorEncoder):
        return Late(given)
    return given if isinstance(given, Side) else Dense(given)


def sides_of(given: Any) -> tuple[Side, ...]:
    """None, one encoder or side, or several, in the order of modes. Raises `InputError` for two of one kind."""
    several = () if given is None else given if isinstance(given, tuple | list) else (given,)
    found = [side_of(one) for one in several]
    modes = [side.mode for side in found]
    for mode in modes:
        if modes.count(mode) > 1:
            raise InputError(f"Two models for {mode} search: an index has one of each kind, {', '.join(SIDES)}.")
    return tuple(sorted(found, key=lambda side: list(SIDES).index(side.mode)))
