"""TF-IDF: words weighted by how rare they are in the suite's own texts; what every model has to beat.

Words and pairs of words, logarithmic counts; over scikit-learn. Shapes: N texts, K words known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from encodery.base.errors import InputError, SettingsError
from encodery.base.extras import require
from encodery.evaluate.systems import OpenSystem, Role, System, Vectors


@dataclass(frozen=True, kw_only=True)
class TFIDFSystem(System):
    """`words`: the longest run of words that counts as one feature; `rarest`: texts a feature must be in to count."""

    name: str = "TF-IDF"
    max_ngram: int = 2
    min_texts: int = 1

    def __post_init__(self) -> None:
        if self.max_ngram < 1 or self.min_texts < 1:
            raise SettingsError(f"words = {self.max_ngram}, rarest = {self.min_texts}: both must be at least 1.")

    @property
    def label(self) -> str:
        return self.name

    def open(self) -> OpenSystem:
        return _Opened(self)


class _Opened(OpenSystem):
    trains_classifier = True

    def __init__(self, settings: TFIDFSystem) -> None:
        super().__init__(settings.label)
        text = require("sklearn.feature_extraction.text", "evaluate")
        # Single letters count, unlike scikit-learn's default: there are words and whole languages of them.
        self._counts: Any = text.TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=(1, settings.max_ngram),
            min_df=settings.min_texts,
            token_pattern=r"(?u)\b\w+\b",
        )
        self._words = self._counts.build_tokenizer()
        self._fitted = False

    def fit(self, texts: Sequence[str]) -> None:
        try:
            self._counts.fit(texts)
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from error
        self._fitted = True

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        if not self._fitted:
            raise InputError(f"{self.name}: has seen no texts yet to take the words' frequencies from.")
        with self.counters.clock():
            vectors = self._counts.transform(texts)
        self.counters.add(len(texts), sum(len(self._words(text)) for text in texts), 0, 0)
        return vectors.tocsr().astype("float32")
