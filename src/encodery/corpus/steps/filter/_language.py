"""The datatrove filter of the part `language`."""

from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from encodery.corpus.languages import language_fractions


class LanguageStep(BaseFilter):  # type: ignore[misc]
    """Drop a document if another known language fits better, or if no language fits well enough."""

    name = "language"

    def __init__(self, languages: tuple[str, ...], min_fraction: float, exclusion_writer: DiskWriter | None) -> None:
        super().__init__(exclusion_writer)
        self.languages = languages
        self.min_fraction = min_fraction

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        fractions = language_fractions(doc.text)
        best = max(fractions, key=lambda code: fractions[code])
        if fractions[best] < self.min_fraction:
            return False, "unknown_language"
        return True if best in self.languages else (False, f"language_{best}")
