"""Passages drawn at random: easy, and hardly ever right by accident. Shapes: Q queries, P passages, N drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encodery.embed.negatives import Haystack, Mined, Negatives
from encodery.embed.negatives._take import first_wrong


@dataclass(frozen=True, kw_only=True)
class Random(Negatives):
    """Has no settings."""

    def mine(self, hay: Haystack, count: int, seed: int) -> Mined:
        draw = np.random.default_rng(seed)
        numbers = np.full((len(hay.queries), count), -1, np.int64)
        for query, right in enumerate(hay.right):
            some = draw.choice(len(hay.passages), min(count + len(right), len(hay.passages)), replace=False)
            numbers[query] = first_wrong(some, right, count)
        return Mined(numbers, int((numbers >= 0).sum()), 0)
