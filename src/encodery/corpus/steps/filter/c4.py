"""C4's rules for web pages: complete sentences only, no code, no notices (arXiv 1910.10683, 2.2).

The rules are made for English web pages: they drop every line without final punctuation and every document with a
curly bracket, so this is not a default filter. It changes the text: lines that fail are removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from encodery.corpus.steps.filter import Filter

if TYPE_CHECKING:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter


@dataclass(frozen=True, kw_only=True)
class C4(Filter):
    """C4's rules.

    Attributes:
        min_sentences: the sentences that a document must have after lines were removed.
        min_words_per_line: the words that a line must have.
        require_punctuation: whether a line must end with final punctuation.
        drop_brackets: whether a document that contains `{` is dropped.
        drop_notices: whether lines about cookies, terms of use and JavaScript are removed.
    """

    min_sentences: int = 5
    min_words_per_line: int = 3
    require_punctuation: bool = True
    drop_brackets: bool = True
    drop_notices: bool = True

    def build(self, exclusion_writer: DiskWriter | None = None) -> BaseFilter:
        from datatrove.pipeline.filters import C4QualityFilter

        from encodery.corpus.words import AnyScriptTokenizer

        return C4QualityFilter(
            exclusion_writer=exclusion_writer,
            filter_no_terminal_punct=self.require_punctuation,
            min_num_sentences=self.min_sentences,
            min_words_per_line=self.min_words_per_line,
            filter_javascript=self.drop_notices,
            filter_curly_bracket=self.drop_brackets,
            filter_policy=self.drop_notices,
            language=AnyScriptTokenizer(),
        )
