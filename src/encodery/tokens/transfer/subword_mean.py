"""A new piece is initialised as the mean of the old pieces that spell it, which is what the model saw in its place.

arXiv:1905.07213. It needs no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from encodery.tokens.pieces import normalised_pieces, spell
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer


@dataclass(frozen=True, kw_only=True)
class SubwordMean(Transfer):
    """Use it to add words of a domain; it is the default, and has no settings.

    transfer.is=subword_mean
    """

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        pieces = normalised_pieces(new)
        spellings = {number: spell(old, pieces[number]) for number in new_ids}
        return {number: (ids, [1 / len(ids)] * len(ids)) for number, ids in spellings.items() if ids}
