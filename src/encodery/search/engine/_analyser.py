"""The analyser that all engines share: text to the terms of BM25, in any script, and their counts."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from encodery.base.errors import SettingsError, nearest
from encodery.corpus.languages import most_frequent_language
from encodery.corpus.scripts import set_apart, word_spans

WORD = re.compile(r"\w+")
AUTO, NO_LANGUAGE = "auto", "none"
STEMMED = {
    "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish", "fi": "finnish",
    "fr": "french", "hu": "hungarian", "hy": "armenian", "it": "italian", "nl": "dutch", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
"""Code of a language -> the name of its stemmer."""
SPACELESS_LANGUAGES = {"ja": "japanese", "km": "khmer", "th": "thai", "zh": "chinese"}
"""Code of a language that is written without spaces -> its name. Each character is a term."""
KNOWN_PIECES, KNOWN_QUERIES = 1 << 17, 8
"""Number of pieces of text, and of queries, whose terms are kept in memory."""
MUCH = 1e6
"""A saturation so high that the engine's weight of a term, rounded, is its count."""


def check_bm25_parameters(k: float, b: float) -> None:
    """Raise `SettingsError` for values that are no parameters of BM25."""
    if not (k >= 0 and 0 <= b <= 1):
        raise SettingsError(f"k = {k}, b = {b}: k must be at least 0, b between 0 and 1.")


def language_of(texts: Iterable[str]) -> str:
    """Return the language of most of the texts, as `analyser_settings` takes it; `none` if it has no stemmer here."""
    code = most_frequent_language(texts) or ""
    return STEMMED.get(code) or SPACELESS_LANGUAGES.get(code, NO_LANGUAGE)


def is_spaceless(language: str) -> bool:
    """Return whether a language is written without spaces between words."""
    return language in SPACELESS_LANGUAGES.values()


def analyser_settings(edge: Any, language: str) -> dict[str, Any]:
    """Return the settings of the package's analyser: words of any script in lower case without accents, with the stop
    words and the stemmer of a language; `auto`, where no texts have decided, has neither. Texts of a language without
    spaces must be `set_apart` before."""
    shared = {"tokenizer": edge.TokenizerType.Multilingual, "lowercase": True, "ascii_folding": True}
    plain = {"stemmer": edge.DisabledStemmer(), "stopwords": edge.StopwordsSet()}
    if is_spaceless(language):
        return {**shared, **plain, "tokenizer": edge.TokenizerType.Word}
    if language in (AUTO, NO_LANGUAGE):
        return {**shared, **plain}
    known = {name.lower(): name for name in dir(edge.SnowballLanguage) if name[0].isupper()}
    if language not in known:
        names = [AUTO, NO_LANGUAGE, *sorted([*known, *SPACELESS_LANGUAGES.values()])]
        raise SettingsError(
            f"language = '{language}': there is no stemmer for it.{nearest(language, names)} "
            f"Languages are {', '.join(names)}."
        )
    name = known[language]
    stopwords = getattr(edge.Language, name, None) or edge.StopwordsSet()
    return {**shared, "stemmer": edge.SnowballParams(getattr(edge.SnowballLanguage, name)), "stopwords": stopwords}


class Analyser:
    """Texts to term ids. `language`: see `analyser_settings`."""

    def __init__(self, edge: Any, language: str) -> None:
        settings = analyser_settings(edge, language)
        self.language = language
        self._words = edge.Bm25(edge.Bm25Config(**settings))
        self._counts = edge.Bm25(edge.Bm25Config(k=MUCH, b=0.0, **settings))
        self._marker = MatchMarker(self.term_ids)
        self._spaceless = is_spaceless(language)
        self._known: dict[str, tuple[int, ...]] = {}  # word -> its terms

    def prepared(self, text: str) -> str:
        """Return the text as the package can cut it into terms."""
        return set_apart(text) if self._spaceless else text

    def term_ids(self, text: str) -> tuple[int, ...]:
        """Return the terms of a text, each once."""
        return tuple(self._words.embed_query(self.prepared(text)).indices)

    def term_counts(self, text: str) -> dict[int, int]:
        """Return the count of each term of a text."""
        vector = self._counts.embed_document(self.prepared(text))
        return {word: round(value) for word, value in zip(vector.indices, vector.values, strict=True)}

    def repeated_terms(self, text: str) -> list[tuple[str, int]]:
        """Return the words of a query by which its repetitions count: those that are in it at least m times, for each
        number m > 1 of times that any word is, and how many times more than for the number before.

        A query of n words has fewer than √(2n) such numbers, so the work for a long query is bounded."""
        written: dict[tuple[int, ...], str] = {}
        counts: Counter[tuple[int, ...]] = Counter()
        for match in WORD.finditer(self.prepared(text)):
            key = self._word_terms(match[0])
            if key:
                written.setdefault(key, match[0])
                counts[key] += 1
        numbers = sorted({1, *counts.values()})
        return [
            (" ".join(written[key] for key in counts if counts[key] >= number), number - before)
            for before, number in itertools.pairwise(numbers)
        ]

    def matches(self, query: str, text: str) -> list[tuple[int, int]]:
        """See `Store`. In a language without spaces, single characters of a longer query are no matches."""
        if not self._spaceless:
            return self._marker.spans(query, text)
        terms = frozenset(self.term_ids(query))
        runs: list[list[tuple[int, int]]] = []
        for begin, end in word_spans(text):
            if not terms.isdisjoint(self._word_terms(text[begin:end])):
                if runs and runs[-1][-1][1] == begin:
                    runs[-1].append((begin, end))
                else:
                    runs.append([(begin, end)])
        return [(run[0][0], run[-1][1]) for run in runs if run[-1][1] - run[0][0] > 1 or len(terms) == 1]

    def _word_terms(self, word: str) -> tuple[int, ...]:
        if word not in self._known:
            if len(self._known) > KNOWN_PIECES:
                self._known.clear()
            self._known[word] = self.term_ids(word)
        return self._known[word]


class MatchMarker:
    """Finds the words of texts that are equal to words of a query. The package takes a microsecond per word, and all
    words of the results are looked at; so the terms of each piece between spaces are computed once and kept."""

    def __init__(self, words: Callable[[str], tuple[int, ...]]) -> None:
        self._words = words
        self._wanted = functools.lru_cache(KNOWN_QUERIES)(words)
        self._known: set[str] = set()
        self._holding: dict[int, dict[str, set[str]]] = {}  # number -> piece -> its words of that number
        self._asked: tuple[str, dict[str, set[str]]] | None = None  # the last query, piece -> its words that match

    def spans(self, query: str, text: str) -> list[tuple[int, int]]:
        """Return the characters [begin, end) of each match, in order."""
        pieces = text.split()
        if not self._known.issuperset(pieces):
            self._learn(set(pieces))
        current = self._asked
        if current is None or current[0] != query:
            current = self._asked = query, self._matching(query)
        held = filter(None, map(current[1].get, pieces))
        return _places({word for words in held for word in words}, text)

    def _learn(self, pieces: set[str]) -> None:
        if len(self._known) > KNOWN_PIECES:
            self._known, self._holding = set(), {}
        for piece in pieces - self._known:
            for word in WORD.findall(piece):
                for number in self._words(word):
                    self._holding.setdefault(number, {}).setdefault(piece, set()).add(word)
        self._known |= pieces
        self._asked = None

    def _matching(self, query: str) -> dict[str, set[str]]:
        matching: dict[str, set[str]] = {}
        for number in self._wanted(query):
            for piece, words in self._holding.get(number, {}).items():
                matching.setdefault(piece, set()).update(words)
        return matching


def _places(words: Iterable[str], text: str) -> list[tuple[int, int]]:
    """Where words occur on their own, as `WORD` finds them: not next to letters, digits or underscores."""
    spans = []
    for word in words:
        begin = text.find(word)
        while begin >= 0:
            end = begin + len(word)
            before, after = text[begin - 1 : begin], text[end : end + 1]
            if not (before.isalnum() or after.isalnum() or before == "_" or after == "_"):
                spans.append((begin, end))
            begin = text.find(word, end)
    return sorted(spans)
