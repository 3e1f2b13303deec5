"""Documents to windows of neighbouring sentences, and the conjunctions with which sentences begin. arXiv:1705.00557

Sentences end at . ! ? … (and 。！？) before a space and a capital letter, digit, quote or bracket, and at blank lines:
a rule that a few abbreviations break, which does little harm here. Shapes: E windows, C sentences of a window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from encodery.base.errors import EmptyInput
from encodery.embed.data import EmbeddingExamples
from encodery.embed.training import Discourse

END = re.compile(
    r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+(?=[\"'“‘(\[]?[^\W_a-zß-ÿ])|(?<=[。！？])|\n\s*\n",
)
LEAST = 3  # Letters of a sentence, below which it is a number, an initial or a rule of dashes.
# Groups of conjunctions, and those that are one only before a comma ("Still, …", but "Still waters …").
BARE = (
    ("furthermore", "moreover", "in addition", "besides"),
    ("nevertheless", "nonetheless", "conversely", "in contrast"),
    ("then", "thereafter", "meanwhile", "afterwards"),
    ("accordingly", "consequently", "hence", "thus", "therefore"),
    ("for example", "for instance", "in particular", "namely"),
    ("likewise", "similarly"),
    ("indeed", "in fact"),
    (),
    ("undoubtedly",),
)
BEFORE_COMMA = (
    ("again", "also", "finally", "further"),
    ("however", "instead", "otherwise", "anyway", "rather", "on the contrary"),
    ("now", "next", "later"),
    ("so", "as a result"),
    ("specifically", "notably", "that is"),
    ("in the same way",),
    (),
    ("still", "yet"),
    ("certainly", "of course"),
)
GROUPS = ("addition", "contrast", "time", "result", "example", "likeness", "emphasis", "return", "concession")


def _alternatives(words: Sequence[Sequence[str]]) -> dict[str, int]:
    return {word: group for group, some in enumerate(words) for word in some}


_BARE, _BEFORE_COMMA = _alternatives(BARE), _alternatives(BEFORE_COMMA)
_ANY = "|".join(sorted(map(re.escape, [*_BARE, *_BEFORE_COMMA]), key=len, reverse=True))
BEGINS = re.compile(rf"({_ANY})\b(\s*,)?\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class SentenceWindows:
    """`data`: windows as columns, in order, its `target` (E, C) the group of the conjunction that was taken from each
    sentence, -1 where there was none; and what became of the text."""

    data: EmbeddingExamples
    documents: int
    sentences: int
    num_short: int

    @property
    def note(self) -> str:
        """For the user."""
        assert self.data.target is not None
        marked = float((self.data.target >= 0).mean())
        left = f", {self.num_short:,} documents too short for one left out" if self.num_short else ""
        return (
            f"{self.documents:,} documents, {self.sentences:,} sentences, {len(self.data):,} windows of "
            f"{len(self.data.columns)}{left}; {marked:.1%} of the sentences begin with a conjunction"
        )


def split_sentences(document: str) -> list[str]:
    """The sentences of a document, each on one line."""
    parts = (" ".join(part.split()) for part in END.split(document))
    return [part for part in parts if sum(c.isalpha() for c in part) >= LEAST]


def strip_conjunction(sentence: str) -> tuple[str, int]:
    """The sentence without the conjunction it begins with, and the number of its group; as it is, and -1."""
    found = BEGINS.match(sentence)
    if found is None:
        return sentence, -1
    word, comma = " ".join(found[1].lower().split()), found[2]
    group = _BARE.get(word, _BEFORE_COMMA.get(word, -1) if comma else -1)
    rest = sentence[found.end() :]
    return (rest[:1].upper() + rest[1:], group) if group >= 0 else (sentence, -1)


def sentence_windows(data: EmbeddingExamples, settings: Discourse) -> SentenceWindows:
    """Windows of `settings.window` sentences over every text of the data, or over its rows in order.

    Neighbouring windows share one sentence, so that no pair of neighbours is lost; the last reaches back as far as it
    needs. Raises `EmptyInput` where no document has as many sentences.
    """
    texts = [text for column in data.columns for text in column]
    given = (
        [[" ".join(text.split()) for text in texts]] if settings.rows == "sentences" else map(split_sentences, texts)
    )
    documents = [[strip_conjunction(sentence) for sentence in one] for one in given]
    size = settings.window
    kept = [one for one in documents if len(one) >= size]
    if not kept:
        longest = max(map(len, documents), default=0)
        raise EmptyInput(
            f"discourse.window = {size}: no document has as many sentences, the longest has {longest}. Rows that are "
            "sentences one after another are read with discourse.rows=sentences."
        )
    rows = [one[start : start + size] for one in kept for start in _starts(len(one), size)]
    columns = tuple([row[place][0] for row in rows] for place in range(size))
    target = np.array([[group for _, group in row] for row in rows], np.int64)
    made = replace(data, columns=columns, target_kind="label", target=target)
    return SentenceWindows(made, len(documents), sum(map(len, documents)), len(documents) - len(kept))


def _starts(count: int, size: int) -> list[int]:
    starts = list(range(0, count - size + 1, size - 1))
    return starts if starts[-1] + size == count else [*starts, count - size]
