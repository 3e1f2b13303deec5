"""A new piece begins as the mean of the pieces it was spelt with before, where a model expects its meaning.

arXiv:1905.07213. Needs no text. Shapes: V pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encodery.tokens.pieces import pieces, spelt
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import Mix, Transfer


@dataclass(frozen=True, kw_only=True)
class Spelt(Transfer):
    """Has no settings."""

    def mixes(self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], wanted: Sequence[int]) -> dict[int, Mix]:
        known = pieces(new)
        found = {number: spelt(old, known[number]) for number in wanted}
        return {number: (ids, [1 / len(ids)] * len(ids)) for number, ids in found.items() if ids}
