"""The stretch of a passage that shows best why it was found, and where its matching words stand."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence

Span = tuple[int, int]
BREAK = re.compile(r"[^\S ]")  # Every space but the plain one.
ELLIPSIS = "…"


def excerpt(text: str, spans: Sequence[Span], width: int) -> tuple[str, list[Span]]:
    """At most about `width` characters of `text` in which most of the `spans` lie, on one line, and the spans in it.

    Cuts fall between words and are shown by an ellipsis.
    """
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
    """Where a stretch with the most spans begins, a little before the first of them; spans are in order."""
    begins, ends = [a for a, _ in spans], [b for _, b in spans]
    best, most = 0, -1
    for place, start in enumerate(begins):
        count = bisect.bisect_right(ends, start + width * 3 // 4) - place
        if count > most:
            best, most = start, count
    return max(0, min(best - width // 8, length - width))


def _flat(text: str) -> str:
    """The text with every line break and tab as a space, of the same length."""
    return BREAK.sub(" ", text)
