"""Gopher's quality rules: what is made of symbols, bullets or numbers rather than of words (arXiv 2112.11446, A1).

Differs from the paper in its defaults, which are those of web pages in English: length is the business of `length`;
the stop-word rule is off unless `language` is given, because it removes every other language; mean word length is
not judged in scripts without spaces; technical text is allowed more numbers and symbols.
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
    """`language`: `en` asks for `min_stop_words` different English stop words; `any` asks for none.
    `min_letters`: share of words that hold a letter. `max_symbols`: `#` or `…` per word.
    `max_bullets`, `max_ellipsis`: share of lines that start with a bullet, that end in an ellipsis."""

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
