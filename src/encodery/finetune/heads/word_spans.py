"""Words of a text with their character offsets, the token that stands for each word, and spans of BIO tags.

Shapes: U words of a text, n tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from encodery.base.errors import InputError

OUTSIDE = "O"
JOINER, SKIN_TONES = "\u200d", frozenset(map(chr, range(0x1F3FB, 0x1F400)))  # of emoji
LabelledSpan = tuple[int, int, str]
"""First word or character, the one after the last, label."""


def word_spans(text: str) -> np.ndarray:
    """Return (U, 2) the start and end of each word of a text.

    Words are separated by white space; each punctuation mark, symbol and ideogram is a word. Combining marks and joined
    emoji belong to the character before them.
    """
    spans: list[list[int]] = []
    starts_new = True
    for at, letter in enumerate(text):
        kind = unicodedata.category(letter)
        if (
            spans
            and spans[-1][1] == at
            and (kind[0] == "M" or kind == "Cf" or letter in SKIN_TONES or text[at - 1] == JOINER)
        ):
            spans[-1][1] = at + 1
        elif letter.isspace() or kind[0] == "C" or kind[0] == "Z":
            starts_new = True
        elif kind[0] in "PS" or (kind == "Lo" and _is_ideogram(letter)):
            spans.append([at, at + 1])
            starts_new = True
        elif starts_new or spans[-1][1] != at:
            spans.append([at, at + 1])
            starts_new = False
        else:
            spans[-1][1] = at + 1
    return np.array(spans, np.int64).reshape(-1, 2)


def join_words(words: Sequence[str]) -> tuple[str, np.ndarray]:
    """Return words as a text with a space between each two, and the start and end of each (U, 2)."""
    ends = np.cumsum([len(word) + 1 for word in words], dtype=np.int64) - 1
    starts = ends - np.array([len(word) for word in words], np.int64)
    return " ".join(words), np.stack([starts, ends], 1).reshape(-1, 2)


def strip_offsets(text: str, offsets: np.ndarray) -> np.ndarray:
    """Return the offsets of tokens (n, 2) without the white space that a tokenizer includes."""
    stripped = offsets.astype(np.int64)
    for token, (start, end) in enumerate(stripped.tolist()):
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        stripped[token] = start, end
    return stripped


def first_tokens(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return (U,) the first token that overlaps each word, -1 without one; `tokens` (n, 2), `words` (U, 2) in order."""
    if not len(tokens) or not len(words):
        return np.full(len(words), -1, np.int64)
    ends = np.maximum.accumulate(np.where(tokens[:, 1] > tokens[:, 0], tokens[:, 1], 0))
    first = np.searchsorted(ends, words[:, 0], side="right")
    safe = np.minimum(first, len(tokens) - 1)
    while True:  # An empty token between two others is skipped.
        empty = (tokens[safe, 1] == tokens[safe, 0]) & (safe < len(tokens) - 1)
        if not empty.any():
            break
        safe = safe + empty
    overlaps = (first < len(tokens)) & (tokens[safe, 0] < words[:, 1]) & (tokens[safe, 1] > words[:, 0])
    return np.where(overlaps, safe, -1)


def words_of_span(row: int, text: str, words: np.ndarray, span: Mapping[str, Any]) -> LabelledSpan:
    """Return a span of characters as a span of words (U, 2). Raises `InputError` naming a row whose span is empty."""
    start, end = span["start"], span["end"]
    inside = np.flatnonzero((words[:, 1] > start) & (words[:, 0] < end))
    if not 0 <= start < end <= len(text) or not len(inside):
        raise InputError(f"Row {row}: there is no text at characters {start} to {end}.")
    return int(inside[0]), int(inside[-1]) + 1, str(span["label"])


def span_answer(text: str, words: np.ndarray, span: LabelledSpan, probability: float) -> dict[str, Any]:
    """Return a span of words (U, 2) as JSON: its characters, label, text and probability."""
    start, end = int(words[span[0], 0]), int(words[span[1] - 1, 1])
    return {"start": start, "end": end, "label": span[2], "text": text[start:end], "probability": probability}


def tag_kind(tag_lists: Iterable[Iterable[str]]) -> Literal["spans", "plain"]:
    """Return "spans" if all tags are O or start with B- or I-, else "plain"."""
    spans = all(tag == OUTSIDE or tag[:2] in ("B-", "I-") for tags in tag_lists for tag in tags)
    return "spans" if spans else "plain"


def spans_of(tags: Sequence[str]) -> list[LabelledSpan]:
    """Return the spans of B- and I- tags. As in seqeval, an I- that continues no span of its label starts one."""
    spans: list[LabelledSpan] = []
    for at, tag in enumerate(tags):
        kind, _, label = tag.partition("-")
        if tag == OUTSIDE or kind not in ("B", "I"):
            continue
        continues = kind == "I" and spans and spans[-1][1] == at and spans[-1][2] == label
        if continues:
            spans[-1] = spans[-1][0], at + 1, label
        else:
            spans.append((at, at + 1, label))
    return spans


def tags_of(spans: Sequence[LabelledSpan], count: int) -> list[str]:
    """Return the B- and I- tags of `count` words; of overlapping spans the first is kept."""
    tags = [OUTSIDE] * count
    for start, stop, label in spans:
        if all(tag == OUTSIDE for tag in tags[start:stop]):
            tags[start:stop] = [f"B-{label}", *[f"I-{label}"] * (stop - start - 1)]
    return tags


def _is_ideogram(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))
