"""FineWeb's rules for web pages: lists, short lines and duplicate lines (arXiv 2406.17557, 3.6).

The rules are made for prose: manuals with tables and definitions fail them, so this is not a default filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.corpus.steps.filter import Filter

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class Fineweb(Filter):
    """FineWeb's rules.

    Attributes:
        min_punctuated_lines: the minimum fraction of lines that end with final punctuation.
        max_short_lines: the maximum fraction of lines of at most `short_line_length` characters.
        max_duplicate_characters: the maximum fraction of characters in duplicate lines.
        max_newlines_per_word: the maximum number of newlines per word.
    """

    min_punctuated_lines: float = 0.12
    max_short_lines: float = 0.67
    short_line_length: int = 30
    max_duplicate_characters: float = 0.01
    max_newlines_per_word: float = 0.3

    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._fineweb import FinewebStep
        from encodery.corpus.words import AnyScriptTokenizer

        return FinewebStep(
            exclusion_writer=exclusion_writer,
            line_punct_thr=self.min_punctuated_lines,
            short_line_thr=self.max_short_lines,
            short_line_length=self.short_line_length,
            char_duplicates_ratio=self.max_duplicate_characters,
            new_line_ratio=self.max_newlines_per_word,
            language=AnyScriptTokenizer(),
        )
