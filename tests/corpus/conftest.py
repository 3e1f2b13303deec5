"""Small texts for the corpus tests."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

NOUNS = [
    "river",
    "mountain",
    "cloud",
    "stone",
    "water",
    "house",
    "tree",
    "light",
    "garden",
    "window",
    "bridge",
    "letter",
    "island",
    "engine",
    "harbour",
]
VERBS = [
    "carries",
    "follows",
    "leaves",
    "reaches",
    "covers",
    "holds",
    "finds",
    "keeps",
    "moves",
    "turns",
    "opens",
    "crosses",
    "lifts",
    "meets",
]
QUALITIES = [
    "old",
    "quiet",
    "distant",
    "narrow",
    "bright",
    "heavy",
    "early",
    "wooden",
    "green",
    "silver",
    "broad",
    "hidden",
    "warm",
    "steep",
]


def prose(seed: int, words: int = 120) -> str:
    """Return sentences in paragraphs, a different text for each seed."""
    source = random.Random(seed)
    pick = source.choice
    sentences: list[str] = []
    count = 0
    while count < words:
        number = source.randint(2, 9999)
        sentence = f"The {pick(QUALITIES)} {pick(NOUNS)} {pick(VERBS)} {number} {pick(QUALITIES)} {pick(NOUNS)}s"
        sentence += f" near the {pick(NOUNS)} of the {pick(QUALITIES)} {pick(NOUNS)}."
        sentences.append(sentence)
        count += 15
    groups = [" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)]
    return "\n\n".join(groups)


@pytest.fixture
def text() -> Callable[..., str]:
    return prose
