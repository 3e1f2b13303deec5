"""datatrove's FineWeb filter, safe on text without words."""

from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter

from encodery.corpus.words import has_words


class FinewebStep(FineWebQualityFilter):  # type: ignore[misc]
    """datatrove divides by the number of words; a text without any is dropped here."""

    name = "fineweb"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if not has_words(doc.text, 1):
            return False, "no_words"
        result: bool | tuple[bool, str] = super().filter(doc)
        return result
