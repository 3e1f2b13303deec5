"""Split documents into windows of neighbouring sentences, and remove the conjunctions that sentences begin with.

For the discourse objective (arXiv:1705.00557). A sentence ends at . ! ? … (and 。！？) before a space and a capital
letter, digit, quote or bracket, and at blank lines; the few abbreviations that break this rule do little harm here.
Shapes: E windows, C sentences of a window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from encodery.base.errors import EmptyInput
from encodery.embed.examples import EmbeddingExamples

END = re.compile(
    r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+(?=[\"'“‘(\[]?[^\W_a-zß-ÿ])|(?<=[。！？])|\n\s*\n",
)
MIN_LETTERS = 3  # Of a sentence; with fewer it is a number, an initial or a line of dashes.
# Conjunctions by group, and those that are one only before a comma ("Still, …", but "Still waters …").
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


def _group_of_each(groups: Sequence[Sequence[str]]) -> dict[str, int]:
    return {conjunction: number for number, group in enumerate(groups) for conjunction in group}


_BARE, _BEFORE_COMMA = _group_of_each(BARE), _group_of_each(BEFORE_COMMA)
_ANY = "|".join(sorted(map(re.escape, [*_BARE, *_BEFORE_COMMA]), key=len, reverse=True))
CONJUNCTION = re.compile(rf"({_ANY})\b(\s*,)?\s+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class SentenceWindows:
    """Windows of sentences, and what they were made from.

    Args:
        data: windows, their sentences as columns in order; its `target` (E, C) is the group of the conjunction that was
            removed from each sentence, -1 for none.
        documents: how many there were; `num_short` of them have fewer sentences than a window.
        sentences: of all documents.
    """

    data: EmbeddingExamples
    documents: int
    sentences: int
    num_short: int

    @property
    def note(self) -> str:
        """A line for the user."""
        assert self.data.target is not None
        marked = float((self.data.target >= 0).mean())
        short = f", {self.num_short:,} documents with too few sentences left out" if self.num_short else ""
        return (
            f"{self.documents:,} documents, {self.sentences:,} sentences, {len(self.data):,} windows of "
            f"{len(self.data.columns)}{short}; {marked:.1%} of the sentences begin with a conjunction"
        )


def split_sentences(document: str) -> list[str]:
    """Return the sentences of a document, each on one line."""
    parts = (" ".join(part.split()) for part in END.split(document))
    return [part for part in parts if sum(c.isalpha() for c in part) >= MIN_LETTERS]


def strip_conjunction(sentence: str) -> tuple[str, int]:
    """Return the sentence without the conjunction that it begins with, and the number of its group; the sentence itself
    and -1 if it begins with none."""
    match = CONJUNCTION.match(sentence)
    if match is None:
        return sentence, -1
    conjunction, comma = " ".join(match[1].lower().split()), match[2]
    group = _BARE.get(conjunction, _BEFORE_COMMA.get(conjunction, -1) if comma else -1)
    rest = sentence[match.end() :]
    return (rest[:1].upper() + rest[1:], group) if group >= 0 else (sentence, -1)


def sentence_windows(
    data: EmbeddingExamples, window: int, rows: Literal["documents", "sentences"] = "documents"
) -> SentenceWindows:
    """Return windows of `window` sentences over the texts of the data.

    Neighbouring windows share one sentence, so that no pair of neighbours is lost; the last window overlaps as far as
    it must. With `rows` = "sentences" all texts are the sentences of one document, in order. Raises `EmptyInput` where
    no document has as many sentences.
    """
    texts = [text for column in data.columns for text in column]
    one_document = [[" ".join(text.split()) for text in texts]]
    split = one_document if rows == "sentences" else map(split_sentences, texts)
    documents = [[strip_conjunction(sentence) for sentence in sentences] for sentences in split]
    long_enough = [sentences for sentences in documents if len(sentences) >= window]
    if not long_enough:
        longest = max(map(len, documents), default=0)
        raise EmptyInput(
            f"window = {window}: no document has as many sentences, the longest has {longest}. Choose a smaller "
            "objective.window, or objective.rows=sentences for rows that are the sentences of one document."
        )
    windows = [some[start : start + window] for some in long_enough for start in _starts(len(some), window)]
    columns = tuple([sentences[place][0] for sentences in windows] for place in range(window))
    target = np.array([[group for _, group in sentences] for sentences in windows], np.int64)
    made = replace(data, columns=columns, target_kind="label", target=target)
    return SentenceWindows(made, len(documents), sum(map(len, documents)), len(documents) - len(long_enough))


def _starts(count: int, window: int) -> list[int]:
    starts = list(range(0, count - window + 1, window - 1))
    return starts if starts[-1] + window == count else [*starts, count - window]
