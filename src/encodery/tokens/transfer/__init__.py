"""Transfer: how the pieces of a new vocabulary are made of those of an old one, for a model that knows the old.

Shapes: V pieces, D width of a static vector.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

from encodery.base.parts import Part
from encodery.tokens.tokenizer import Tokenizer

EmbeddingMix = tuple[Sequence[int], Sequence[float]]
"""Ids of the old vocabulary and their shares, which are not negative and sum to 1."""


class Transfer(Part):
    """Contract. What both vocabularies have by the same name is kept as it is, unless `keeps` says otherwise."""

    @property
    def keeps_shared(self) -> bool:
        """Whether equal pieces keep their rows. Special tokens and bare bytes always do."""
        return True

    @abc.abstractmethod
    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        """Of each of the `wanted` new ids what it is made of; those that nothing is known of are left out.

        `shared`: new id → the old id of the same piece. Equal arguments give equal answers. Raises `InputError` for
        files that cannot be used.
        """
