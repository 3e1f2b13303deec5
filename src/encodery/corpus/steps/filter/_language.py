"""The datatrove filter behind `language`."""

from __future__ import annotations

import regex
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from encodery.corpus.steps.filter._function_words import FUNCTION_WORDS, SCRIPTS
from encodery.corpus.words import words

READ = 20_000  # Characters that decide.


class LanguageStep(BaseFilter):  # type: ignore[misc]
    """Drops a document when another language listed fits better, or none of the wanted ones fits well enough."""

    name = "language"

    def __init__(self, languages: tuple[str, ...], min_fraction: float, dropped: DiskWriter | None) -> None:
        super().__init__(dropped)
        self.keep = languages
        self.min_share = min_fraction
        self.function_words = {code: frozenset(listed.split()) for code, listed in FUNCTION_WORDS.items()}

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        shares = self.fractions(doc.text[:READ])
        best = max(shares, key=lambda code: shares[code])
        if shares[best] < self.min_share:
            return False, "unknown_language"
        return True if best in self.keep else (False, f"language_{best}")

    def fractions(self, text: str) -> dict[str, float]:
        """How well each language fits: share of its function words, or of the letters of its script."""
        found = words(text.lower())
        letters = max(1, sum(map(str.isalpha, text)))
        shares = {
            code: sum(word in listed for word in found) / max(1, len(found))
            for code, listed in self.function_words.items()
        }
        for code, script in SCRIPTS.items():
            shares[code] = len(regex.findall(rf"\p{{{script}}}", text)) / letters
        # Japanese is written with Han beside its kana, so any kana decides.
        if shares["ja"] > 0.1:
            shares["ja"] += shares.pop("zh")
        return shares
