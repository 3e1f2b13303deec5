"""Gopher's quality rules: drop text made of symbols, bullets or numbers instead of words (arXiv 2112.11446, A1).

Differs from the paper, whose limits are made for English web pages: document length is left to `length`; the stop-word
rule is off unless `language` is set, because it removes every other language; mean word length is not tested in scripts
without spaces; the limits on numbers and symbols are wider, for technical text.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from encodery.corpus.steps.filter import Filter

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class GopherQuality(Filter):
    """Gopher's quality rules.

    Attributes:
        language: "en" requires `min_stop_words` different English stop words; "any" requires none.
        min_word_length, max_word_length: the limits of the mean word length.
        max_symbols: the maximum number of `#`, and of `…`, per word.
        max_bullets, max_ellipsis: the maximum fraction of lines that start with a bullet, or end with an ellipsis.
        min_letters: the minimum fraction of words that contain a letter.
    """

    language: Literal["any", "en"] = "any"
    min_stop_words: int = 2
    min_word_length: float = 2.5
    max_word_length: float = 12.0
    max_symbols: float = 0.2
    max_bullets: float = 0.95
    max_ellipsis: float = 0.5
    min_letters: float = 0.6

    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._gopher_quality import GopherQualityStep, GopherRules

        return GopherQualityStep(exclusion_writer, GopherRules(**dataclasses.asdict(self)))
