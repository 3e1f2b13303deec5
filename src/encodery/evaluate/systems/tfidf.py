"""TF-IDF: word n-grams, weighted by their rarity in the suite's texts; the baseline of every model.

Term frequencies are logarithmic; computed by scikit-learn. Shapes: N texts, K n-grams.
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
    """Measure TF-IDF vectors. Use it as the baseline that a trained model must beat.

    `max_ngram`: maximum words of an n-gram. `min_texts`: minimum texts that an n-gram must occur in.
    """

    name: str = "TF-IDF"
    max_ngram: int = 2
    min_texts: int = 1

    def __post_init__(self) -> None:
        if self.max_ngram < 1 or self.min_texts < 1:
            raise SettingsError(f"max_ngram = {self.max_ngram}, min_texts = {self.min_texts}: both must be at least 1.")

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
        # Words of one character count, unlike in scikit-learn's default: some languages have many.
        self._vectorizer: Any = text.TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=(1, settings.max_ngram),
            min_df=settings.min_texts,
            token_pattern=r"(?u)\b\w+\b",
        )
        self._tokenize = self._vectorizer.build_tokenizer()
        self._fitted = False

    def fit(self, texts: Sequence[str]) -> None:
        try:
            self._vectorizer.fit(texts)
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from error
        self._fitted = True

    def encode(self, texts: Sequence[str], role: Role | None = None) -> Vectors:
        if not self._fitted:
            raise InputError(f"{self.name}: is not fitted yet; `fit` takes the texts whose word frequencies it uses.")
        with self.counters.clock():
            vectors = self._vectorizer.transform(texts)
        self.counters.add(len(texts), sum(len(self._tokenize(text)) for text in texts), 0, 0)
        return vectors.tocsr().astype("float32")
