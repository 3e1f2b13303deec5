"""A new piece is initialised as a mixture of the shared pieces that are used like it in text of the new kind.

FOCUS (arXiv:2305.14481): static vectors of the new vocabulary's pieces are computed from raw text; the weights of a
piece are the sparsemax of its cosines with the pieces that both vocabularies have. Pieces without a vector are
initialised as by `subword_mean`. Differs from the paper: the vectors are factorised counts in place of fastText's, and
a piece without one is not drawn at random. Shapes: V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encodery.base.settings import check_at_least, check_interval
from encodery.tokens.pieces import normalised_pieces, spell
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer
from encodery.tokens.transfer._vectors import PIECES_AT_ONCE, TEXT_GAP, sparsemax, static_vectors


@dataclass(frozen=True, kw_only=True)
class SimilarPieces(Transfer):
    """Use it to move a model to a domain or language for which you have text. `texts`: raw text in the new domain or
    language, a file or a corpus. `width`: D of the vectors computed from it; `window`: the largest distance of
    neighbours.

        transfer.is=similar_pieces transfer.texts=texts.txt
    """

    texts: str
    width: int = 100
    window: int = 5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width")
        check_interval(self, f"1 <= x <= {TEXT_GAP}", "window")

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        vectors, known = static_vectors(new, Path(self.texts), self.width, self.window)
        anchors = np.array([number for number in known.tolist() if number in shared], np.int64)
        sources = np.array([shared[number] for number in anchors.tolist()], np.int64)
        pieces = normalised_pieces(new)
        mixtures: dict[int, EmbeddingMix] = {}
        with_vectors = np.intersect1d(known, np.array(new_ids, np.int64)) if len(anchors) else np.zeros(0, np.int64)
        for start in range(0, len(with_vectors), PIECES_AT_ONCE):
            batch = with_vectors[start : start + PIECES_AT_ONCE]
            weights = sparsemax(vectors[batch] @ vectors[anchors].T)
            for number, row in zip(batch.tolist(), weights, strict=True):
                kept = np.flatnonzero(row)
                mixtures[number] = sources[kept].tolist(), row[kept].tolist()
        for number in set(new_ids) - set(mixtures):
            if ids := spell(old, pieces[number]):
                mixtures[number] = ids, [1 / len(ids)] * len(ids)
        return mixtures
