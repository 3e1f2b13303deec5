"""Split a very long document at paragraph boundaries, so that later steps need bounded memory.

The pieces have about equal lengths, so that no short rest is dropped by a length filter. No text is lost: joined by
blank lines, the pieces are the original text except for whitespace at the boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.settings import check_at_least
from encodery.corpus.steps.rewrite import Rewrite

BOUNDARIES = ("\n\n", "\n", ". ", "。", " ")


@dataclass(frozen=True, kw_only=True)
class Pieces(Rewrite):
    """Split long documents. `max_characters`: the maximum length of a piece."""

    max_characters: int = 100_000

    def __post_init__(self) -> None:
        check_at_least(self, 100, "max_characters")

    def apply(self, text: str) -> list[str]:
        pieces = []
        start, length = 0, len(text)
        while (rest := length - start) > self.max_characters:
            count = -(-rest // self.max_characters)
            end = self._boundary(text, start, start + min(-(-rest // count) * 21 // 20, self.max_characters))
            pieces.append(text[start:end].strip())
            start = end
        pieces.append(text[start:].strip() if pieces else text)
        return [piece for piece in pieces if piece] or [text]

    def _boundary(self, text: str, start: int, latest: int) -> int:
        """Return the last paragraph, line, sentence or word boundary in the last tenth before `latest`, or `latest`."""
        for boundary in BOUNDARIES:
            index = text.rfind(boundary, max(start, latest - (latest - start) // 10), latest)
            if index > start:
                return index + len(boundary)
        return latest
