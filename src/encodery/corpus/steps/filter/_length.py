"""The datatrove filter of the part `length`."""

from __future__ import annotations

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from encodery.corpus.words import has_words


class LengthStep(BaseFilter):  # type: ignore[misc]
    """Drop short and long documents; words are counted only as far as needed."""

    name = "length"

    def __init__(self, minimum: int, maximum: int | None, exclusion_writer: DiskWriter | None) -> None:
        super().__init__(exclusion_writer)
        self.minimum = minimum
        self.maximum = maximum

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if not doc.text.strip():
            return False, "empty"
        if not has_words(doc.text, self.minimum):
            return False, "too_short"
        if self.maximum is not None and has_words(doc.text, self.maximum + 1):
            return False, "too_long"
        return True
