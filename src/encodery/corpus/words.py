"""Split text of any script into words and sentences with one regular expression; no language is needed.

datatrove's filters accept a tokenizer object in place of a language; this one replaces its NLTK and spaCy tokenizers
and downloads nothing. In scripts written without spaces (Han, Kana, Thai, Lao, Khmer, Burmese, Tibetan) each character,
with its marks, counts as one word. Combining marks stay in their word, where the standard library's `\\w` would split.
"""

from __future__ import annotations

import itertools
import re

import regex
from datatrove.utils.text import TERMINAL_PUNCTUATION
from datatrove.utils.word_tokenizers import WordTokenizer

SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
LETTERS = rf"[[\w\p{{M}}]--[{SPACELESS}]]+"
ANY_WORD = regex.compile(rf"[{SPACELESS}]\p{{M}}*|{LETTERS}(?:['’\-]{LETTERS})*", regex.V1)
# The same for text in Latin, Greek and Cyrillic letters without combining marks, with the faster standard library.
PLAIN_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
NOT_PLAIN = re.compile("[\u0300-\u036f\u0483-\u0489\u0590-\u1fff\u2c00-\U0010ffff]")
WITHOUT_SPACES = regex.compile(rf"[{SPACELESS}]")
SENTENCE = regex.compile(rf"[^{regex.escape(''.join(TERMINAL_PUNCTUATION))}\n]+(?:\S*)", regex.UNICODE)


def words(text: str) -> list[str]:
    """Return the words of a text, without punctuation."""
    plain = text.isascii() or not NOT_PLAIN.search(text)
    return PLAIN_WORD.findall(text) if plain else ANY_WORD.findall(text)


def has_words(text: str, count: int) -> bool:
    """Return whether a text has at least `count` words; it is read only as far as needed."""
    matches = ANY_WORD.finditer(text)
    return count <= 0 or next(itertools.islice(matches, count - 1, None), None) is not None


def is_spaceless(text: str, sample: int = 4000) -> bool:
    """Return whether most letters at the start of a text belong to scripts written without spaces."""
    head = text[:sample]
    if head.isascii():
        return False
    letters = sum(map(str.isalpha, head))
    return 2 * len(WITHOUT_SPACES.findall(head)) > letters


class AnyScriptTokenizer(WordTokenizer):  # type: ignore[misc]
    """datatrove's interface to `words`. All instances are equal, so that steps share datatrove's cache of splits."""

    def __init__(self) -> None:
        super().__init__("any")

    def word_tokenize(self, text: str) -> list[str]:
        return words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [text[a:b].strip() for a, b in self.span_tokenize(text) if text[a:b].strip()]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in SENTENCE.finditer(text)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyScriptTokenizer)

    def __hash__(self) -> int:
        return hash(AnyScriptTokenizer)
