"""Words of a text with the characters they stand at, the pieces that speak for them, and spans of tags.

Shapes: U units (words) of a text, n pieces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

OUTSIDE = "O"
JOINER, SKIN_TONES = "\u200d", frozenset(map(chr, range(0x1F3FB, 0x1F400)))  # of emoji
LabelledSpan = tuple[int, int, str]
"""First unit or character, the one behind the last, label."""


def word_spans(text: str) -> np.ndarray:
    """(U, 2) the words of a text: what stands between spaces, every mark of punctuation, symbol and ideogram by
    itself. Combining marks and joined emoji stay with what they stand on."""
    found: list[list[int]] = []
    alone = True
    for at, letter in enumerate(text):
        kind = unicodedata.category(letter)
        if (
            found
            and found[-1][1] == at
            and (kind[0] == "M" or kind == "Cf" or letter in SKIN_TONES or text[at - 1] == JOINER)
        ):
            found[-1][1] = at + 1
        elif letter.isspace() or kind[0] == "C" or kind[0] == "Z":
            alone = True
        elif kind[0] in "PS" or (kind == "Lo" and _ideogram(letter)):
            found.append([at, at + 1])
            alone = True
        elif alone or found[-1][1] != at:
            found.append([at, at + 1])
            alone = False
        else:
            found[-1][1] = at + 1
    return np.array(found, np.int64).reshape(-1, 2)


def join_words(words: Sequence[str]) -> tuple[str, np.ndarray]:
    """Words as a text, a space between each two, and where each stands (U, 2)."""
    ends = np.cumsum([len(word) + 1 for word in words], dtype=np.int64) - 1
    starts = ends - np.array([len(word) for word in words], np.int64)
    return " ".join(words), np.stack([starts, ends], 1).reshape(-1, 2)


def strip_offsets(text: str, offsets: np.ndarray) -> np.ndarray:
    """Where pieces stand (n, 2), without the spaces that a tokenizer counts to them."""
    found = offsets.astype(np.int64)
    for place, (begin, end) in enumerate(found.tolist()):
        while begin < end and text[begin].isspace():
            begin += 1
        while end > begin and text[end - 1].isspace():
            end -= 1
        found[place] = begin, end
    return found


def first_tokens(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(U,) the first piece that shares a character with each unit, -1 where none does; of pieces (n, 2) and units
    (U, 2), both in order."""
    if not len(tokens) or not len(words):
        return np.full(len(words), -1, np.int64)
    reach = np.maximum.accumulate(np.where(tokens[:, 1] > tokens[:, 0], tokens[:, 1], 0))
    first = np.searchsorted(reach, words[:, 0], side="right")
    safe = np.minimum(first, len(tokens) - 1)
    while True:  # An empty piece between two others is passed over.
        empty = (tokens[safe, 1] == tokens[safe, 0]) & (safe < len(tokens) - 1)
        if not empty.any():
            break
        safe = safe + empty
    shares = (first < len(tokens)) & (tokens[safe, 0] < words[:, 1]) & (tokens[safe, 1] > words[:, 0])
    return np.where(shares, safe, -1)


def tag_kind(tag_lists: Iterable[Iterable[str]]) -> Literal["spans", "plain"]:
    """Whether all tags say where spans begin and go on, or stand for themselves."""
    spans = all(tag == OUTSIDE or tag[:2] in ("B-", "I-") for tags in tag_lists for tag in tags)
    return "spans" if spans else "plain"


def spans_of(tags: Sequence[str]) -> list[LabelledSpan]:
    """Runs of B- and I- tags. As seqeval reads them, I- begins a span where none of its label goes on."""
    found: list[LabelledSpan] = []
    for at, tag in enumerate(tags):
        kind, _, label = tag.partition("-")
        if tag == OUTSIDE or kind not in ("B", "I"):
            continue
        goes_on = kind == "I" and found and found[-1][1] == at and found[-1][2] == label
        if goes_on:
            found[-1] = found[-1][0], at + 1, label
        else:
            found.append((at, at + 1, label))
    return found


def tags_of(spans: Sequence[LabelledSpan], count: int) -> list[str]:
    """B- and I- tags of so many units; where spans overlap, the first one stays."""
    tags = [OUTSIDE] * count
    for start, stop, label in spans:
        if all(tag == OUTSIDE for tag in tags[start:stop]):
            tags[start:stop] = [f"B-{label}", *[f"I-{label}"] * (stop - start - 1)]
    return tags


def _ideogram(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))
