"""datatrove's FineWeb filter, safe on text without words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from encodery.corpus.words import Words, has_words

if TYPE_CHECKING:
    from encodery.corpus.steps.filter.fineweb import Fineweb


class FinewebStep(FineWebQualityFilter):  # type: ignore[misc]
    """datatrove divides by the number of words; a text without any is dropped here."""

    name = "fineweb"

    def __init__(self, part: Fineweb, dropped: DiskWriter | None) -> None:
        super().__init__(
            exclusion_writer=dropped,
            line_punct_thr=part.min_punctuated,
            short_line_thr=part.max_short,
            short_line_length=part.short,
            char_duplicates_ratio=part.max_repeated,
            new_line_ratio=part.max_newlines,
            language=Words(),
        )

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if not has_words(doc.text, 1):
            return False, "no_words"
        result: bool | tuple[bool, str] = super().filter(doc)
        return result
