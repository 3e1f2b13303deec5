"""The stretch of a passage that shows best why it was found, and where its matching words stand."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]
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
    """Where a stretch with the most spans begins, a little before the first of them."""
    best, most = 0, -1
    for start, _ in spans:
        count = sum(start <= a and b <= start + width * 3 // 4 for a, b in spans)
        if count > most:
            best, most = start, count
    return max(0, min(best - width // 8, length - width))


def _flat(text: str) -> str:
    """The text with every line break and tab as a space, of the same length."""
    return "".join(" " if character.isspace() else character for character in text)
