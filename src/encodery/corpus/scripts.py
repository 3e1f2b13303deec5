"""Scripts that are written without spaces between words: their characters, and texts with each of them set apart."""

from __future__ import annotations

import re

# Ranges of a character class: Han, Kana, Thai, Lao, Tibetan, Burmese, Khmer; letters, vowel signs and marks.
SPACELESS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0f00\u0f18-\u0f19\u0f35\u0f37\u0f39\u0f3e-\u0f84"
    "\u0f86-\u0fbc\u0fc6\u1000-\u103f\u1050-\u108f\u109a-\u109d\u1780-\u17d3\u17d7\u17dc-\u17dd\u3005\u303b"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ef"
    "\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f\uf900-\ufad9\uff66-\uff6f\uff71-\uff9d\U00016fe3"
    "\U00016ff0-\U00016ff1\U0001aff0-\U0001b167\U00020000-\U0002ebe0\U0002f800-\U0002fa1d"
    "\U00030000-\U0003134a"
)
# Marks of these scripts, which stay with the letter before them.
MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u0f18-\u0f19\u0f35\u0f37\u0f39"
    "\u0f3e-\u0f3f\u0f71-\u0f84\u0f86-\u0f87\u0f8d-\u0fbc\u0fc6\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\u17b4-\u17d3\u17dd\ua9e5"
    "\uaa7b-\uaa7d\U00016ff0-\U00016ff1"
)
CHARACTER = re.compile(f"[{SPACELESS}][{MARKS}]*")
_WORD = re.compile(rf"[{SPACELESS}][{MARKS}]*|[^\W{SPACELESS}]+")


def set_apart(text: str) -> str:
    """Return a text in which a space precedes and follows each character of these scripts, with its marks."""
    return text if text.isascii() else CHARACTER.sub(r" \g<0> ", text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return the characters [begin, end) of each word of a text; a character of these scripts is a word."""
    return [match.span() for match in _WORD.finditer(text)]
