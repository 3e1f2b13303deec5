"""The analyser that all engines share: text to words of any script, and BM25's numbers over them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from encodery.base.errors import SettingsError, nearest

WORD = re.compile(r"\w+")
MUCH = 1e6
"""A saturation so high that the engine's weight of a word is, rounded, how often it occurs."""


def check_formula(k: float, b: float) -> None:
    """Raises `SettingsError` for what is no parameter of BM25."""
    if not (k >= 0 and 0 <= b <= 1):
        raise SettingsError(f"k = {k}, b = {b}: k is at least 0, b between 0 and 1.")


def analyser(edge: Any, language: str) -> dict[str, Any]:
    """Words of any script, accents folded, lower case; stop words and stems of the language. `edge`: the package."""
    shared = {"tokenizer": edge.TokenizerType.Multilingual, "lowercase": True, "ascii_folding": True}
    if language == "none":
        return {**shared, "stemmer": edge.DisabledStemmer(), "stopwords": edge.StopwordsSet()}
    known = {name.lower(): name for name in dir(edge.SnowballLanguage) if name[0].isupper()}
    if language not in known:
        raise SettingsError(
            f"language = '{language}': there is no stemmer for it.{nearest(language, known)} "
            f"Languages are none, {', '.join(sorted(known))}."
        )
    name = known[language]
    stopwords = getattr(edge.Language, name, None) or edge.StopwordsSet()
    return {**shared, "stemmer": edge.SnowballParams(getattr(edge.SnowballLanguage, name)), "stopwords": stopwords}


class Analyser:
    """Words as numbers. `language`: see `analyser`."""

    def __init__(self, edge: Any, language: str) -> None:
        settings = analyser(edge, language)
        self._words = edge.Bm25(edge.Bm25Config(**settings))
        self._counts = edge.Bm25(edge.Bm25Config(k=MUCH, b=0.0, **settings))

    def words(self, text: str) -> tuple[int, ...]:
        """The words of a text, each once."""
        return tuple(self._words.embed_query(text).indices)

    def counts(self, text: str) -> dict[int, int]:
        """How often each word of a text occurs."""
        found = self._counts.embed_document(text)
        return {word: round(value) for word, value in zip(found.indices, found.values, strict=True)}

    def repeated(self, text: str) -> list[str]:
        """The words of a query that stand in it at least twice, those at least thrice, and so on."""
        written: dict[tuple[int, ...], str] = {}
        counts: Counter[tuple[int, ...]] = Counter()
        for match in WORD.finditer(text):
            key = self.words(match[0])
            if key:
                written.setdefault(key, match[0])
                counts[key] += 1
        most = max(counts.values(), default=0)
        return [" ".join(written[key] for key in counts if counts[key] >= times) for times in range(2, most + 1)]

    def matches(self, query: str, text: str) -> list[tuple[int, int]]:
        """See `Store`."""
        wanted = set(self.words(query))
        found: dict[str, bool] = {}
        spans = []
        for match in WORD.finditer(text):
            word = match[0]
            if word not in found:
                found[word] = not wanted.isdisjoint(self.words(word))
            if found[word]:
                spans.append(match.span())
        return spans
