"""Recognise the language of a text by its script and its most frequent words. Nothing is downloaded.

Some languages are identified by their script (Greek, Thai, …); languages that share the Latin or Cyrillic script are
distinguished by the fraction of their function words, which needs about thirty words of running text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from encodery.corpus.function_words import FUNCTION_WORDS, SCRIPTS
from encodery.corpus.stats import count_scripts

MAX_CHARACTERS = 20_000  # Of a text, from its start, that are examined.
MIN_FRACTION = 0.15
WORD = re.compile(r"\w+")
_LISTED = {code: frozenset(listed.split()) for code, listed in FUNCTION_WORDS.items()}


def language_fractions(text: str) -> dict[str, float]:
    """Return for each language the fraction of the words that are function words of it, or of the letters that are of
    its script."""
    head = text[:MAX_CHARACTERS]
    words = WORD.findall(head.lower())
    scripts = count_scripts(head)
    letters = max(1, sum(scripts.values()))
    fractions = {code: sum(word in listed for word in words) / max(1, len(words)) for code, listed in _LISTED.items()}
    fractions |= {code: scripts[script] / letters for code, script in SCRIPTS.items()}
    # Japanese text contains Han characters as well as kana, so kana decide between Japanese and Chinese.
    if fractions["ja"] > 0.1:
        fractions["ja"] += fractions.pop("zh")
    return fractions


def most_frequent_language(texts: Iterable[str], min_fraction: float = MIN_FRACTION) -> str | None:
    """Return the code of the language of most of the characters of texts; None if it is none that is known here."""
    sizes: Counter[str | None] = Counter()
    for text in texts:
        fractions = language_fractions(text)
        best = max(fractions, key=lambda code: fractions[code])
        sizes[best if fractions[best] >= min_fraction else None] += min(len(text), MAX_CHARACTERS)
    return sizes.most_common(1)[0][0] if sizes else None
