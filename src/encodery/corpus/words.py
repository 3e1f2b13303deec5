"""Words and sentences of any script by one regular expression: nothing is downloaded, no language is asked for.

datatrove's filters take a tokenizer object where they take a language; this one replaces its NLTK and spaCy
tokenizers. Han, Kana, Thai, Lao, Khmer, Burmese and Tibetan, which write no spaces, count one word a character
(with its marks). Combining marks stay in their word, which the standard library's `\\w` would cut.
"""

from __future__ import annotations

import itertools

import regex
from datatrove.utils.text import TERMINAL_PUNCTUATION
from datatrove.utils.word_tokenizers import WordTokenizer

SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
WORD = regex.compile(rf"[{SPACELESS}]\p{{M}}*|(?:(?![{SPACELESS}])[\w\p{{M}}])+(?:['’\-](?![{SPACELESS}])\w+)*")
ASCII_WORD = regex.compile(r"[A-Za-z0-9_]+(?:['\-][A-Za-z0-9_]+)*")
WITHOUT_SPACES = regex.compile(rf"[{SPACELESS}]")
SENTENCE = regex.compile(rf"[^{regex.escape(''.join(TERMINAL_PUNCTUATION))}\n]+(?:\S*)", regex.UNICODE)


def words(text: str) -> list[str]:
    """The words of a text, punctuation left out."""
    return (ASCII_WORD if text.isascii() else WORD).findall(text)


def has_words(text: str, count: int) -> bool:
    """Whether the text has at least `count` words; reads no further than needed."""
    found = WORD.finditer(text)
    return count <= 0 or next(itertools.islice(found, count - 1, None), None) is not None


def spaceless(text: str, sample: int = 4000) -> bool:
    """Whether most letters at the beginning of the text belong to scripts written without spaces."""
    head = text[:sample]
    if head.isascii():
        return False
    letters = sum(map(str.isalpha, head))
    return 2 * len(WITHOUT_SPACES.findall(head)) > letters


class Words(WordTokenizer):  # type: ignore[misc]
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
        return isinstance(other, Words)

    def __hash__(self) -> int:
        return hash(Words)
