"""datatrove's Gopher quality filter with words of any script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datatrove.data import Document
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from encodery.corpus.words import Words, spaceless

if TYPE_CHECKING:
    from encodery.corpus.steps.filter.gopher_quality import GopherQuality


class GopherQualityStep(GopherQualityFilter):  # type: ignore[misc]
    """Leaves the rule of mean word length out where most words are single characters of a script without spaces."""

    name = "gopher_quality"

    def __init__(self, part: GopherQuality, dropped: DiskWriter | None) -> None:
        super().__init__(
            min_doc_words=1,
            max_doc_words=None,
            min_avg_word_length=part.min_word_length,
            max_avg_word_length=part.max_word_length,
            max_symbol_word_ratio=part.max_symbols,
            max_bullet_lines_ratio=part.max_bullets,
            max_ellipsis_lines_ratio=part.max_ellipsis,
            max_non_alpha_words_ratio=part.min_letters,
            min_stop_words=part.min_stop_words if part.language == "en" else 0,
            exclusion_writer=dropped,
            language=Words(),
        )
        self.lengths = (self.min_avg_word_length, self.max_avg_word_length)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        self.min_avg_word_length, self.max_avg_word_length = (0, 0) if spaceless(doc.text) else self.lengths
        result: bool | tuple[bool, str] = super().filter(doc)
        if isinstance(result, tuple):
            return False, result[1].removeprefix("gopher_")
        return result
