"""The datatrove filter of the part `language`."""

from __future__ import annotations

import regex
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from encodery.corpus.steps.filter._function_words import FUNCTION_WORDS, SCRIPTS
from encodery.corpus.words import words

MAX_CHARACTERS = 20_000  # Of a document, from its start, that are examined.


class LanguageStep(BaseFilter):  # type: ignore[misc]
    """Drop a document if another known language fits better, or if no language fits well enough."""

    name = "language"

    def __init__(self, languages: tuple[str, ...], min_fraction: float, exclusion_writer: DiskWriter | None) -> None:
        super().__init__(exclusion_writer)
        self.languages = languages
        self.min_fraction = min_fraction
        self.function_words = {code: frozenset(listed.split()) for code, listed in FUNCTION_WORDS.items()}

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        fractions = self.fractions(doc.text[:MAX_CHARACTERS])
        best = max(fractions, key=lambda code: fractions[code])
        if fractions[best] < self.min_fraction:
            return False, "unknown_language"
        return True if best in self.languages else (False, f"language_{best}")

    def fractions(self, text: str) -> dict[str, float]:
        """Return for each language the fraction of its function words, or of the letters of its script."""
        tokens = words(text.lower())
        letters = max(1, sum(map(str.isalpha, text)))
        fractions = {
            code: sum(word in listed for word in tokens) / max(1, len(tokens))
            for code, listed in self.function_words.items()
        }
        for code, script in SCRIPTS.items():
            fractions[code] = len(regex.findall(rf"\p{{{script}}}", text)) / letters
        # Japanese text contains Han characters as well as kana, so kana decide between Japanese and Chinese.
        if fractions["ja"] > 0.1:
            fractions["ja"] += fractions.pop("zh")
        return fractions
