"""datatrove's FineWeb filter, made safe for text without words."""

from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter

from encodery.corpus.words import has_words


class FinewebStep(FineWebQualityFilter):  # type: ignore[misc]
    """datatrove's filter divides by the number of words; here a text without words is dropped first."""

    name = "fineweb"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if not has_words(doc.text, 1):
            return False, "no_words"
        result: bool | tuple[bool, str] = super().filter(doc)
        return result
