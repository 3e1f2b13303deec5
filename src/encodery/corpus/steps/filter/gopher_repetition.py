"""Gopher's repetition rules: lines, paragraphs or word n-grams that fill a document (arXiv 2112.11446, table A1).

The decisions are datatrove's; n-grams are screened by hashes first, which decides nearly every document and is
several times faster. The thresholds are wider than the paper's for web pages: manuals, tables, definitions and
scripture repeat themselves; what is dropped is text of which a third is repetition. A most frequent n-gram that
occurs only once is never held against a short text.
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
    """`max_lines`, `max_paragraphs`: share of repeated lines and paragraphs; `…_characters`: share of the text in
    them. `scale` multiplies the paper's limits on the most frequent 2- to 4-gram and on repeated 5- to 10-grams."""

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
