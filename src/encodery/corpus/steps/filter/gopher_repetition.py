"""Gopher's repetition rules: drop documents with many duplicate lines, paragraphs or n-grams (arXiv 2112.11446, A1).

The decisions are those of datatrove. A fast test on hashed n-grams comes first; it decides nearly every document and
makes the filter several times faster. The limits are wider than the paper's, which are made for web pages: manuals,
tables, definitions and scripture repeat themselves, so only text of which about a third is repetition is dropped. A
most frequent n-gram that occurs only once does not count as repetition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.corpus.steps.filter import Filter

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class GopherRepetition(Filter):
    """Gopher's repetition rules.

    Attributes:
        max_duplicate_lines, max_duplicate_paragraphs: the maximum fraction of duplicate lines and paragraphs.
        max_duplicate_line_characters, max_duplicate_paragraph_characters: the maximum fraction of the text in them.
        ngram_limit_scale: multiplies the paper's limits on the most frequent 2- to 4-gram and on duplicate 5- to
            10-grams.
    """

    max_duplicate_lines: float = 0.5
    max_duplicate_paragraphs: float = 0.5
    max_duplicate_line_characters: float = 0.3
    max_duplicate_paragraph_characters: float = 0.5
    ngram_limit_scale: float = 2.0

    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._gopher_repetition import GopherRepetitionStep

        return GopherRepetitionStep(
            self.ngram_limit_scale,
            dup_line_frac=self.max_duplicate_lines,
            dup_para_frac=self.max_duplicate_paragraphs,
            dup_line_char_frac=self.max_duplicate_line_characters,
            dup_para_char_frac=self.max_duplicate_paragraph_characters,
            exclusion_writer=exclusion_writer,
        )
