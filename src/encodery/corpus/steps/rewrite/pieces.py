"""Cuts a very long document at paragraph borders, so that what comes after needs bounded memory.

The pieces are of about equal length: no short rest is left to be dropped by a length filter. Nothing is lost: the
pieces joined by blank lines are the text, up to whitespace at the cuts.
"""

from __future__ import annotations

from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.corpus.steps.rewrite import Rewrite

BORDERS = ("\n\n", "\n", ". ", "。", " ")


@dataclass(frozen=True, kw_only=True)
class Pieces(Rewrite):
    """`max_characters`: length of the longest piece."""

    max_characters: int = 100_000

    def __post_init__(self) -> None:
        if self.max_characters < 100:
            raise SettingsError(f"max_characters = {self.max_characters}: must be at least 100.")

    def apply(self, text: str) -> list[str]:
        pieces = []
        start, length = 0, len(text)
        while (rest := length - start) > self.max_characters:
            count = -(-rest // self.max_characters)
            end = self._cut(text, start, start + min(-(-rest // count) * 21 // 20, self.max_characters))
            pieces.append(text[start:end].strip())
            start = end
        pieces.append(text[start:].strip() if pieces else text)
        return [piece for piece in pieces if piece] or [text]

    def _cut(self, text: str, start: int, latest: int) -> int:
        """The last good border in the last tenth before `latest`, else `latest`."""
        for border in BORDERS:
            found = text.rfind(border, max(start, latest - (latest - start) // 10), latest)
            if found > start:
                return found + len(border)
        return latest
