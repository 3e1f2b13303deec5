"""The part of a passage that best shows why it was found, and where its matching words are."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

Span = tuple[int, int]
BREAK = re.compile(r"[^\S ]")  # Every space but the plain one.
ELLIPSIS = "…"


def excerpt(text: str, spans: Sequence[Span], width: int) -> tuple[str, list[Span]]:
    """Return at most about `width` characters of `text`, on one line, that contain as many of the `spans` as possible,
    and the spans within it.

    The text is cut between words, and an ellipsis marks each cut."""
    if len(text) <= width:
        return _flat(text), list(spans)
    begin = _begin(len(text), spans, width)
    end = min(begin + width, len(text))
    if begin > 0:
        space = text.find(" ", begin, begin + width // 4)
        begin = space + 1 if space >= 0 else begin
    if end < len(text):
        space = text.rfind(" ", end - width // 4, end)
        end = space if space >= 0 else end
    head, tail = ELLIPSIS if begin else "", ELLIPSIS if end < len(text) else ""
    moved = [(a - begin + len(head), b - begin + len(head)) for a, b in spans if begin <= a and b <= end]
    return head + _flat(text[begin:end]) + tail, moved


def _begin(length: int, spans: Sequence[Span], width: int) -> int:
    """Where a part with the most spans begins, a little before the first of them. The spans must be in order."""
    begins, ends = [a for a, _ in spans], [b for _, b in spans]
    best, best_count = 0, -1
    for place, start in enumerate(begins):
        count = bisect.bisect_right(ends, start + width * 3 // 4) - place
        if count > best_count:
            best, best_count = start, count
    return max(0, min(best - width // 8, length - width))


def _flat(text: str) -> str:
    """The text with every line break and tab replaced by a space; its length does not change."""
    return BREAK.sub(" ", text)
