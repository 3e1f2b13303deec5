"""Words and sentences of any script by one regular expression: nothing is downloaded, no language is asked for.

datatrove's filters take a tokenizer object where they take a language; this one replaces its NLTK and spaCy
tokenizers. Han, Kana, Thai, Lao, Khmer, Burmese and Tibetan, which write no spaces, count one word a character
(with its marks). Combining marks stay in their word, which the standard library's `\\w` would cut.
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
# The same for text of Latin, Greek and Cyrillic letters without combining marks, by the faster library.
PLAIN_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
NOT_PLAIN = re.compile("[\u0300-\u036f\u0483-\u0489\u0590-\u1fff\u2c00-\U0010ffff]")
WITHOUT_SPACES = regex.compile(rf"[{SPACELESS}]")
SENTENCE = regex.compile(rf"[^{regex.escape(''.join(TERMINAL_PUNCTUATION))}\n]+(?:\S*)", regex.UNICODE)


def words(text: str) -> list[str]:
    """The words of a text, punctuation left out."""
    plain = text.isascii() or not NOT_PLAIN.search(text)
    return PLAIN_WORD.findall(text) if plain else ANY_WORD.findall(text)


def has_words(text: str, count: int) -> bool:
    """Whether the text has at least `count` words; reads no further than needed."""
    found = ANY_WORD.finditer(text)
    return count <= 0 or next(itertools.islice(found, count - 1, None), None) is not None


def is_spaceless(text: str, sample: int = 4000) -> bool:
    """Whether most letters at the beginning of the text belong to scripts written without spaces."""
    head = text[:sample]
    if head.isascii():
        return False
    letters = sum(map(str.isalpha, head))
    return 2 * len(WITHOUT_SPACES.findall(head)) > letters


class AnyScriptTokenizer(WordTokenizer):  # type: ignore[misc]
    """datatrove's interface to `words`. All instances are equal, so its cache of split texts is shared by steps."""

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
