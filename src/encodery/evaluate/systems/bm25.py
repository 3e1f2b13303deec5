"""BM25 in the form of Lucene, for retrieval.

A document's vector contains idf · tf / (tf + k1 · (1 - b + b · length / mean length)), a query's the counts of its
terms; their inner product is the score, except for the constant factor k1 + 1, which Lucene omits too. Shapes: N texts,
K terms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.base.extras import require
from encodery.evaluate.systems import OpenSystem, Role, System, UnsupportedEvaluation, Vectors


@dataclass(frozen=True, kw_only=True)
class BM25System(System):
    """BM25. `k1`: saturation of the term frequency; `b`: normalisation by document length; `stop_words`: whether the
    most frequent English words are left out."""

    name: str = "BM25"
    k1: float = 1.2
    b: float = 0.75
    stop_words: bool = True

    def __post_init__(self) -> None:
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise SettingsError(f"k1 = {self.k1}, b = {self.b}: k1 must not be negative, and 0 <= b <= 1 is needed.")

    @property
    def label(self) -> str:
        return self.name

    def open(self) -> OpenSystem:
        return _Opened(self)


# The list of Lucene.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)


class _Opened(OpenSystem):
    symmetric = False

    def __init__(self, settings: BM25System) -> None:
        super().__init__(settings.label)
        text = require("sklearn.feature_extraction.text", "evaluate")
        self._counts: Any = text.CountVectorizer(
            token_pattern=r"(?u)\b\w+\b", stop_words=sorted(STOP_WORDS) if settings.stop_words else None
        )
        self._words = self._counts.build_tokenizer()
        self._settings = settings
        self._idf: np.ndarray | None = None
        self._mean = 1.0

    def fit(self, texts: Sequence[str]) -> None:
        try:
            counts = self._counts.fit_transform(texts)
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from error
        documents = counts.getnnz(axis=0)
        self._idf = np.log1p((len(texts) - documents + 0.5) / (documents + 0.5))
        self._mean = max(float(counts.sum()) / len(texts), 1e-9)

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        if self._idf is None:
            raise InputError(f"{self.name}: has no document frequencies yet; call fit first.")
        if role is None:
            raise UnsupportedEvaluation(f"{self.name}: retrieves documents for queries and cannot compare two texts.")
        with self.counters.clock():
            vectors = self._counts.transform(texts).tocsr().astype(np.float64)
            if role == "document":
                k1, b = self._settings.k1, self._settings.b
                lengths = np.asarray(vectors.sum(1)).ravel()
                penalty = k1 * (1 - b + b * lengths / self._mean)
                penalty = np.repeat(penalty, np.diff(vectors.indptr))
                vectors.data = self._idf[vectors.indices] * vectors.data / (vectors.data + penalty)
        self.counters.add(len(texts), sum(len(self._words(text)) for text in texts), 0, 0)
        return vectors
