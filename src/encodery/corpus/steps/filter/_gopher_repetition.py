"""datatrove's Gopher repetition filter behind a screen of hashed n-grams that gives the same answers faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.text import split_into_words

from encodery.corpus.words import Words

if TYPE_CHECKING:
    from encodery.corpus.steps.filter.gopher_repetition import GopherRepetition

TOP = ((2, 0.20), (3, 0.18), (4, 0.16))
REPEATED = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class GopherRepetitionStep(GopherRepetitionFilter):  # type: ignore[misc]
    """Lines and paragraphs as datatrove does; n-grams by datatrove only where the screen cannot exclude a drop."""

    name = "gopher_repetition"

    def __init__(self, part: GopherRepetition, dropped: DiskWriter | None) -> None:
        super().__init__(
            dup_line_frac=part.max_lines,
            dup_para_frac=part.max_paragraphs,
            dup_line_char_frac=part.max_line_characters,
            dup_para_char_frac=part.max_paragraph_characters,
            top_n_grams=tuple((n, share * part.scale) for n, share in TOP),
            dup_n_grams=tuple((n, share * part.scale) for n, share in REPEATED),
            exclusion_writer=dropped,
            language=Words(),
        )
        self.limits = (self.top_n_grams, self.dup_n_grams)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        suspect = self.screen(doc.text)
        self.top_n_grams, self.dup_n_grams = self.limits if suspect else ((), ())
        result: bool | tuple[bool, str] = super().filter(doc)
        return result

    def screen(self, text: str) -> bool:
        """Whether an n-gram rule could drop the text: never False where datatrove would drop it."""
        words = split_into_words(text, self.language)
        if not words:
            return False
        numbers: dict[str, int] = {}
        ids = np.fromiter((numbers.setdefault(w, len(numbers)) for w in words), dtype=np.uint64, count=len(words))
        lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        top, repeated = dict(self.limits[0]), dict(self.limits[1])
        key = ids.copy()
        for n in range(2, max([*top, *repeated], default=1) + 1):
            if len(key) < 2:
                return False
            key = key[:-1] * MULTIPLIER + ids[n - 1 :]
            if n in top and _longest_top(key, lengths, n) > top[n] * len(text):
                return True
            if n in repeated and _covered(key, lengths, n) > repeated[n] * len(text):
                return True
        return False


def _longest_top(key: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Upper bound on the characters filled by the most frequent n-gram, blanks included."""
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    most = counts.max()
    ends = np.concatenate(([0], np.cumsum(lengths)))
    starts = first[counts == most]
    return int((ends[starts + n] - ends[starts]).max() + n - 1) * int(most)


def _covered(key: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Characters of the words that lie in some repeated n-gram: at least what any count without overlap finds."""
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), dtype=bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    if not again.any():
        return 0
    edges = np.zeros(len(lengths) + 1, dtype=np.int64)
    edges[:-n] += again
    edges[n:] -= again
    return int(lengths[np.cumsum(edges[:-1]) > 0].sum())
