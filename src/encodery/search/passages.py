"""Divides documents into passages: windows of tokens that end at the best boundary near their end.

Boundaries in order of preference: a blank line, the end of a sentence or line, a space; if the last half of a window
has none (a very long word), between two tokens. The passages of a document have about equal lengths, so that no short
rest remains. Every passage knows its characters in the document, and begins with the document's title, so that it is
also found by the title.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.corpus.document import Document
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import METADATA, Point

WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
# Where a passage may end, best first; the next passage begins at the end of the match.
BOUNDARIES = (
    re.compile(r"\n\s*\n\s*"),
    re.compile(r"(?:[.!?…]['\")\]»”’]*\s+)|[。！？]\s*|\n\s*"),
    re.compile(r"\s+"),
)


@dataclass(frozen=True, kw_only=True)
class Passages:
    """How documents are divided.

    Args:
        size: tokens of the longest passage, its title included; words in an index without a model. The maximum length
            of the model applies if it is lower.
        overlap: tokens of a passage that the next one repeats at its beginning.
        title: put the document's title, if its metadata has one, before each of its passages.
    """

    size: int = 128
    overlap: int = 0
    title: bool = True

    def __post_init__(self) -> None:
        if self.size < 8:
            raise SettingsError(f"passages.size = {self.size}: must be at least 8.")
        if not 0 <= self.overlap <= self.size // 2:
            raise SettingsError(f"passages.overlap = {self.overlap}: must be between 0 and half of size {self.size}.")

    def points(self, document: Document, retriever: ModelRetriever | None) -> list[Point]:
        """Return the passages of a document, without embeddings, measured in tokens of a model, or in words.

        The payload has `start` and `end` in the document's text, `title`, `head` (the number of characters before the
        passage's own text), and the metadata.
        """
        text, metadata = document.text, document.metadata
        title = " ".join(str(metadata.get("title") or "").split())
        head = f"{title}\n" if self.title and title and not text.lstrip().startswith(title) else ""
        size = self.size if retriever is None else min(self.size, retriever.max_length)
        if head:
            size -= min(len(_offsets(head, retriever)), size // 2)
        ranges = passage_ranges(text, _offsets(text, retriever), size, min(self.overlap, size // 2))
        return [
            Point(
                document.id,
                number,
                head + text[start:end].strip(),
                None,
                {"start": start, "end": end, "title": title, "head": len(head), METADATA: metadata},
            )
            for number, (start, end) in enumerate(ranges)
        ]


def _offsets(text: str, retriever: ModelRetriever | None) -> np.ndarray:
    return word_offsets(text) if retriever is None else retriever.token_offsets(text)


def word_offsets(text: str) -> np.ndarray:
    """Return the offsets (n, 2) of words and punctuation marks, which count as tokens if there is no model."""
    return np.array([match.span() for match in WORD_OR_MARK.finditer(text)], np.int64).reshape(-1, 2)


def passage_ranges(text: str, offsets: np.ndarray, size: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Return the character ranges of the passages of a text, each of at most `size` tokens.

    Args:
        offsets: (n, 2) characters of the text's tokens.

    A text without tokens is one passage. Without overlap, every token is in exactly one passage.
    """
    total = len(offsets)
    if total <= size:
        return [(0, len(text))]
    ranges = []
    first = 0
    while (rest := total - first) > size:
        count = -(-rest // size)
        length = min(size, -(-rest // count) * 9 // 8)
        last = _boundary(text, offsets, first, first + length)
        ranges.append((int(offsets[first, 0]), int(offsets[last - 1, 1])))
        first = max(last - overlap, first + 1)
    ranges.append((int(offsets[first, 0]), int(offsets[-1, 1])))
    return ranges


def _boundary(text: str, offsets: np.ndarray, first: int, latest: int) -> int:
    """The token with which the next passage begins: after the last boundary of the best kind in the later half."""
    earliest = first + (latest - first + 1) // 2
    start, end = int(offsets[earliest - 1, 1]), int(offsets[latest, 0])
    for kind in BOUNDARIES:
        ends = [match.end() for match in kind.finditer(text, start, end)]
        if ends:
            return first + int(np.searchsorted(offsets[first : latest + 1, 0], ends[-1]))
    return latest
