"""A new piece begins as the mean of the pieces it was spelt with before, where a model expects its meaning.

arXiv:1905.07213. Needs no text. Shapes: V pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encodery.tokens.pieces import normalised_pieces, spell
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer


@dataclass(frozen=True, kw_only=True)
class SubwordMean(Transfer):
    """Has no settings."""

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        known = normalised_pieces(new)
        found = {number: spell(old, known[number]) for number in new_ids}
        return {number: (ids, [1 / len(ids)] * len(ids)) for number, ids in found.items() if ids}
