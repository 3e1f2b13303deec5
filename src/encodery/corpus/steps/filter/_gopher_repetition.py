"""datatrove's Gopher repetition filter, preceded by a fast test on hashed n-grams; the decisions are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.text import split_into_words

from encodery.corpus.words import AnyScriptTokenizer

TOP_LIMITS = ((2, 0.20), (3, 0.18), (4, 0.16))
DUPLICATE_LIMITS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
Limit = tuple[int, float]
Limits = tuple[Limit, ...]
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class GopherRepetitionStep(GopherRepetitionFilter):  # type: ignore[misc]
    """Apply datatrove's rules; its slow n-gram rules run only on documents that `screen` cannot clear."""

    name = "gopher_repetition"

    def __init__(self, scale: float, **settings: Any) -> None:
        super().__init__(
            top_n_grams=tuple((n, fraction * scale) for n, fraction in TOP_LIMITS),
            dup_n_grams=tuple((n, fraction * scale) for n, fraction in DUPLICATE_LIMITS),
            language=AnyScriptTokenizer(),
            **settings,
        )
        self.limits = (self.top_n_grams, self.dup_n_grams)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        self.top_n_grams, self.dup_n_grams = self.screen(doc.text)
        result: bool | tuple[bool, str] = super().filter(doc)
        return result

    def screen(self, text: str) -> tuple[Limits, Limits]:
        """Return the n-gram rules that the text might violate; it certainly satisfies all others.

        A most frequent n-gram that occurs only once is not a repetition; in short texts datatrove overlooks this.
        """
        words = split_into_words(text, self.language)
        numbers: dict[str, int] = {}
        ids = np.fromiter((numbers.setdefault(w, len(numbers)) for w in words), dtype=np.uint64, count=len(words))
        lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        top, repeated = dict(self.limits[0]), dict(self.limits[1])
        breaks: tuple[list[Limit], list[Limit]] = ([], [])
        key = ids.copy()
        for n in range(2, max([*top, *repeated], default=1) + 1):
            key = key[:-1] * MULTIPLIER + ids[n - 1 :]
            key ^= key >> np.uint64(31)
            ordered = np.sort(key)
            again = ordered[1:] == ordered[:-1]
            if not again.any():
                break  # No longer n-gram is repeated either.
            if n in top and _most_frequent(again) * _longest(lengths, n, n - 1) > top[n] * len(text):
                breaks[0].append((n, top[n]))
            enough = n in repeated and int(again.sum()) * _longest(lengths, n, 0) > repeated[n] * len(text)
            if enough and _covered(key, lengths, n) > repeated[n] * len(text):
                breaks[1].append((n, repeated[n]))
        return tuple(breaks[0]), tuple(breaks[1])


def _most_frequent(again: np.ndarray) -> int:
    """Return how often the most frequent key occurs; `again` marks sorted keys equal to the key before them."""
    edges = np.flatnonzero(np.diff(again.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max()) + 1


def _longest(lengths: np.ndarray, n: int, blanks: int) -> int:
    """Return the characters of the longest n-gram, plus `blanks` for the spaces between its words."""
    ends = np.concatenate(([0], np.cumsum(lengths)))
    return int((ends[n:] - ends[:-n]).max()) + blanks


def _covered(key: np.ndarray, lengths: np.ndarray, n: int) -> int:
    """Return the characters of all words in repeated n-grams: an upper bound of any count without overlaps."""
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), dtype=bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    edges = np.zeros(len(lengths) + 1, dtype=np.int64)
    edges[:-n] += again
    edges[n:] -= again
    return int(lengths[np.cumsum(edges[:-1]) > 0].sum())
