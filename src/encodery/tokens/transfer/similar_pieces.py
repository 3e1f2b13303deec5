"""A new piece begins as a mix of the shared pieces that stand in like company in text of the new kind. arXiv:2305.14481

FOCUS: static vectors of the new vocabulary's pieces are learnt from raw text in it; the sparsemax of a piece's cosines
with the pieces that both vocabularies have is what it is made of. Pieces without a vector begin as `spelt` would have
them. Differs from the paper: the vectors are factorised counts in place of fastText's, and what has none is not drawn
at random. Shapes: V pieces, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encodery.base.errors import SettingsError
from encodery.tokens.pieces import normalised_pieces, spell
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer
from encodery.tokens.transfer._vectors import PIECES_AT_ONCE, TEXT_GAP, sparsemax, static_vectors


@dataclass(frozen=True, kw_only=True)
class SimilarPieces(Transfer):
    """`texts`: raw text in the new vocabulary's language or domain, a file or a corpus. `width` D of the vectors learnt
    from it; `window`: how far apart two pieces are still neighbours."""

    texts: str
    width: int = 100
    window: int = 5

    def __post_init__(self) -> None:
        if self.width < 1 or not 1 <= self.window <= TEXT_GAP:
            raise SettingsError(
                f"width = {self.width}, window = {self.window}: at least 1, and a window up to {TEXT_GAP}."
            )

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        vectors, seen = static_vectors(new, Path(self.texts), self.width, self.window)
        anchors = np.array([number for number in seen.tolist() if number in shared], np.int64)
        sources = np.array([shared[number] for number in anchors.tolist()], np.int64)
        known = normalised_pieces(new)
        found: dict[int, EmbeddingMix] = {}
        fresh = np.intersect1d(seen, np.array(new_ids, np.int64)) if len(anchors) else np.zeros(0, np.int64)
        for start in range(0, len(fresh), PIECES_AT_ONCE):
            some = fresh[start : start + PIECES_AT_ONCE]
            shares = sparsemax(vectors[some] @ vectors[anchors].T)
            for number, row in zip(some.tolist(), shares, strict=True):
                kept = np.flatnonzero(row)
                found[number] = sources[kept].tolist(), row[kept].tolist()
        for number in set(new_ids) - set(found):
            if ids := spell(old, known[number]):
                found[number] = ids, [1 / len(ids)] * len(ids)
        return found
