"""A piece of another language is initialised as a mixture of the pieces nearest in meaning, by a dictionary.

WECHSEL (arXiv:2112.06598): static vectors of both vocabularies, each computed from raw text of its language, are
rotated onto each other by the pairs of a bilingual dictionary; a new piece is a mixture of its nearest old ones, by the
softmax of their cosines. Pieces of equal spelling are not kept, since they need not mean the same; those without a
vector keep the embedding of an equal piece, or else are initialised as by `subword_mean`. Differs from the paper:
vectors of pieces are computed as such, from factorised counts, not composed of a fastText model's words.
Shapes: V vocabulary, D width, n pairs of words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encodery.base.errors import InputError
from encodery.base.settings import check_at_least, check_interval
from encodery.rows.text_files import open_text
from encodery.tokens.pieces import normalised_pieces, spell
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer
from encodery.tokens.transfer._vectors import PIECES_AT_ONCE, TEXT_GAP, static_vectors

MIN_PAIRS = 10  # of a dictionary, for a rotation


@dataclass(frozen=True, kw_only=True)
class Bilingual(Transfer):
    """Use it to move a model to another language. `source_texts` and `target_texts`: raw text of the old and of the new
    language, files or corpora. `dictionary`: a file of pairs, an old and a new word per line, separated by a tab or a
    space. `neighbours`: the pieces in a mixture; `temperature` divides their cosines; `width`, `window`: see
    `similar_pieces`.

        transfer.is=bilingual transfer.source_texts=en.txt transfer.target_texts=de.txt transfer.dictionary=en-de.txt
    """

    source_texts: str
    target_texts: str
    dictionary: str
    neighbours: int = 10
    temperature: float = 0.1
    width: int = 100
    window: int = 5

    def __post_init__(self) -> None:
        check_at_least(self, 1, "neighbours")
        check_interval(self, "0 < x", "temperature")
        check_at_least(self, 1, "width")
        check_interval(self, f"1 <= x <= {TEXT_GAP}", "window")

    @property
    def keeps_shared(self) -> bool:
        return False

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        old_vectors, known_old = static_vectors(old, Path(self.source_texts), self.width, self.window)
        new_vectors, known_new = static_vectors(new, Path(self.target_texts), self.width, self.window)
        new_vectors = new_vectors @ self._rotation(
            _word_vectors(new, new_vectors, self._pairs()[1]), _word_vectors(old, old_vectors, self._pairs()[0])
        )
        mixtures: dict[int, EmbeddingMix] = {}
        with_vectors = np.intersect1d(known_new, np.array(new_ids, np.int64))
        count = min(self.neighbours, len(known_old))
        for start in range(0, len(with_vectors), PIECES_AT_ONCE):
            batch = with_vectors[start : start + PIECES_AT_ONCE]
            scores = new_vectors[batch] @ old_vectors[known_old].T
            nearest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            best = np.take_along_axis(scores, nearest, axis=1).astype(np.float64)
            weights = np.exp((best - best[:, :1]) / self.temperature)
            weights /= weights.sum(axis=1, keepdims=True)
            for number, ids, row in zip(batch.tolist(), known_old[nearest], weights, strict=True):
                mixtures[number] = ids.tolist(), row.tolist()
        pieces = normalised_pieces(new)
        for number in set(new_ids) - set(mixtures):
            if ids := [shared[number]] if number in shared else spell(old, pieces[number]):
                mixtures[number] = ids, [1 / len(ids)] * len(ids)
        return mixtures

    def _pairs(self) -> tuple[list[str], list[str]]:
        """The words of the dictionary, old and new. Raises `InputError`."""
        pairs: list[tuple[str, str]] = []
        with open_text(Path(self.dictionary)) as (lines, _):
            for number, line in enumerate(lines, 1):
                parts = line.strip().split("\t") if "\t" in line.strip() else line.split()
                if not parts:
                    continue
                if len(parts) != 2:
                    raise InputError(
                        f"{self.dictionary}, line {number}: holds {len(parts)} words; each line must hold a pair."
                    )
                pairs.append((parts[0].strip(), parts[1].strip()))
        return [one for one, _ in pairs], [other for _, other in pairs]

    def _rotation(self, new_vectors: np.ndarray, old_vectors: np.ndarray) -> np.ndarray:
        """(D, D) the rotation that brings the vectors (n, D) of words nearest to those of their translations."""
        both = (np.abs(new_vectors).sum(1) > 0) & (np.abs(old_vectors).sum(1) > 0)
        if both.sum() < MIN_PAIRS:
            raise InputError(
                f"{self.dictionary}: {int(both.sum())} of its {len(both)} pairs occur in both texts; "
                f"at least {MIN_PAIRS} are needed."
            )
        left, _, right = np.linalg.svd(new_vectors[both].T @ old_vectors[both])
        rotation: np.ndarray = (left @ right).astype(np.float32)
        return rotation


def _word_vectors(tokenizer: Tokenizer, vectors: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """(n, D) unit vectors of words, the means of their pieces'; zeros for words that did not occur."""
    vectors_of = np.zeros((len(words), vectors.shape[1]), np.float32)
    for index, ids in enumerate(tokenizer.encode_batch([f" {word}" for word in words])):
        if len(ids):
            vectors_of[index] = vectors[ids.astype(np.int64)].mean(0)
    norms = np.linalg.norm(vectors_of, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(vectors_of, norms, out=np.zeros_like(vectors_of), where=norms > 1e-6)
    return unit
