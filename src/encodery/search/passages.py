"""Documents cut into passages: windows of tokens that end at the best border near their end.

Borders in order of preference: a blank line, the end of a sentence or line, a space; where there is none within the
last half of a window (a very long "word"), between two tokens. Passages of one document are of about equal length,
so that no short rest is left over. Every passage knows its character offsets in the document, and bears the
document's title at its head, by which it is found as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from encodery.base.errors import SettingsError
from encodery.corpus.document import Document
from encodery.search.retrievers import ModelRetriever
from encodery.search.store import METADATA, Point

WORDS = re.compile(r"\w+|[^\w\s]")
# Where a passage may end, best first: the match's end is where the next passage begins.
BORDERS = (
    re.compile(r"\n\s*\n\s*"),
    re.compile(r"(?:[.!?…]['\")\]»”’]*\s+)|[。！？]\s*|\n\s*"),
    re.compile(r"\s+"),
)


@dataclass(frozen=True, kw_only=True)
class Passages:
    """`size`: tokens of the longest passage, its title included (words, in an index without a model); less where the
    model takes less. `overlap`: tokens of the passage before that are repeated at the beginning of the next.
    `title`: whether a document's title, where its metadata has one, is put before each of its passages."""

    size: int = 128
    overlap: int = 0
    title: bool = True

    def __post_init__(self) -> None:
        if self.size < 8:
            raise SettingsError(f"passages.size = {self.size}: must be at least 8.")
        if not 0 <= self.overlap <= self.size // 2:
            raise SettingsError(f"passages.overlap = {self.overlap}: must lie between 0 and half of size {self.size}.")

    def points(self, document: Document, retriever: ModelRetriever | None) -> list[Point]:
        """The document's passages, without vectors, cut by the tokens of a model, or by words. Payload: `start` and
        `end` in the document's text, `title`, the length `head` of what stands before the passage's own text, and the
        metadata."""
        text, metadata = document.text, document.metadata
        title = " ".join(str(metadata.get("title") or "").split())
        head = f"{title}\n" if self.title and title and not text.lstrip().startswith(title) else ""
        size = self.size if retriever is None else min(self.size, retriever.max_length)
        if head:
            size -= min(len(_offsets(head, retriever)), size // 2)
        ranges = token_ranges(text, _offsets(text, retriever), size, min(self.overlap, size // 2))
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


def _offsets(text: str, side: ModelRetriever | None) -> np.ndarray:
    return word_offsets(text) if side is None else side.token_offsets(text)


def word_offsets(text: str) -> np.ndarray:
    """Offsets (n, 2) of words and marks: what counts as a token where no model is given."""
    return np.array([match.span() for match in WORDS.finditer(text)], np.int64).reshape(-1, 2)


def token_ranges(text: str, offsets: np.ndarray, size: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Character ranges of the passages of a text, given its tokens' offsets (n, 2); each holds at most `size` tokens.

    A text without tokens has one passage, the whole. Without overlap the passages cover every token exactly once.
    """
    total = len(offsets)
    if total <= size:
        return [(0, len(text))]
    ranges = []
    first = 0
    while (rest := total - first) > size:
        count = -(-rest // size)
        wanted = min(size, -(-rest // count) * 9 // 8)
        last = _border(text, offsets, first, first + wanted)
        ranges.append((int(offsets[first, 0]), int(offsets[last - 1, 1])))
        first = max(last - overlap, first + 1)
    ranges.append((int(offsets[first, 0]), int(offsets[-1, 1])))
    return ranges


def _border(text: str, offsets: np.ndarray, first: int, latest: int) -> int:
    """The token at which the next passage begins: after the last border of the best kind in the window's later half."""
    earliest = first + (latest - first + 1) // 2
    start, end = int(offsets[earliest - 1, 1]), int(offsets[latest, 0])
    for kind in BORDERS:
        ends = [match.end() for match in kind.finditer(text, start, end)]
        if ends:
            return first + int(np.searchsorted(offsets[first : latest + 1, 0], ends[-1]))
    return latest
