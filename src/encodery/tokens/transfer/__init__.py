"""Transfer: how the embeddings of a new vocabulary's pieces are made of those of an old one.

Shapes: V vocabulary, D width of a static vector.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from encodery.base.parts import Part
from encodery.tokens.tokenizer import Tokenizer

EmbeddingMix = tuple[Sequence[int], Sequence[float]]
"""Ids of the old vocabulary and their weights, which are not negative and sum to 1."""


class Transfer(Part):
    """Contract of a transfer. Pieces of both vocabularies keep their embeddings unless `keeps_shared` is false."""

    @property
    def keeps_shared(self) -> bool:
        """Whether equal pieces keep their embeddings. Special tokens and single bytes always do."""
        return True

    @abc.abstractmethod
    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        """Return the mixture of old ids for each of the `new_ids`; ids of which nothing is known are left out.

        `shared`: new id → the old id of the same piece. Equal arguments give equal results. Raises `InputError` for
        files that cannot be used.
        """
