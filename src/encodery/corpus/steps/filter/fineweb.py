"""FineWeb's rules for web pages: lists, short lines and repeated lines (arXiv 2406.17557, 3.6).

Made for prose: manuals with tables and definitions fail its line rules, so it is not among the default filters.
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
    """`min_punctuated`: share of lines that end a sentence; `max_short`: share of lines of at most `short`
    characters; `max_repeated`: share of characters in repeated lines; `max_newlines`: newlines per word."""

    min_punctuated: float = 0.12
    max_short: float = 0.67
    short: int = 30
    max_repeated: float = 0.01
    max_newlines: float = 0.3

    def build(self, dropped: DiskWriter | None = None) -> BaseFilter:
        from encodery.corpus.steps.filter._fineweb import FinewebStep
        from encodery.corpus.words import Words

        return FinewebStep(
            exclusion_writer=dropped,
            line_punct_thr=self.min_punctuated,
            short_line_thr=self.max_short,
            short_line_length=self.short,
            char_duplicates_ratio=self.max_repeated,
            new_line_ratio=self.max_newlines,
            language=Words(),
        )
