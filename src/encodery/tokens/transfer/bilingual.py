"""A piece of another language begins as a mix of the pieces nearest in meaning, by a dictionary. arXiv:2112.06598

WECHSEL: static vectors of both vocabularies, each learnt from raw text of its language, are turned onto each other by
the pairs of a bilingual dictionary; a new piece is made of its nearest old ones, by the softmax of their cosines.
Pieces of equal spelling are not kept, for they need not mean the same; those without a vector keep the row of an equal
piece, else begin as `spelt` would have them. Differs from the paper: vectors of pieces are learnt as such, from
factorised counts, not put together from a fastText model's words. Shapes: V pieces, D width, n pairs of words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.rows.text_files import open_text
from encodery.tokens.pieces import normalised_pieces, spell
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer
from encodery.tokens.transfer._vectors import PIECES_AT_ONCE, TEXT_GAP, static_vectors

MIN_PAIRS = 10  # pairs of a dictionary, below which nothing can be turned


@dataclass(frozen=True, kw_only=True)
class Bilingual(Transfer):
    """`source` and `target`: raw text of the old and of the new language, files or corpora. `dictionary`: a file of
    pairs, an old and a new word a line with a tab or a space between them. `neighbours` a piece is made of;
    `temperature` divides their cosines; `width` and `window` as for `similar`."""

    source_texts: str
    target_texts: str
    dictionary: str
    neighbours: int = 10
    temperature: float = 0.1
    width: int = 100
    window: int = 5

    def __post_init__(self) -> None:
        if self.neighbours < 1 or not self.temperature > 0:
            raise SettingsError(
                f"neighbours = {self.neighbours}, temperature = {self.temperature}: at least 1, and positive."
            )
        if self.width < 1 or not 1 <= self.window <= TEXT_GAP:
            raise SettingsError(
                f"width = {self.width}, window = {self.window}: at least 1, and a window up to {TEXT_GAP}."
            )

    @property
    def keeps_shared(self) -> bool:
        return False

    def mixtures(
        self, old: Tokenizer, new: Tokenizer, shared: Mapping[int, int], new_ids: Sequence[int]
    ) -> dict[int, EmbeddingMix]:
        theirs, known_old = static_vectors(old, Path(self.source_texts), self.width, self.window)
        ours, known_new = static_vectors(new, Path(self.target_texts), self.width, self.window)
        ours = ours @ self._turn(_words(new, ours, self._pairs()[1]), _words(old, theirs, self._pairs()[0]))
        found: dict[int, EmbeddingMix] = {}
        fresh = np.intersect1d(known_new, np.array(new_ids, np.int64))
        count = min(self.neighbours, len(known_old))
        for start in range(0, len(fresh), PIECES_AT_ONCE):
            some = fresh[start : start + PIECES_AT_ONCE]
            scores = ours[some] @ theirs[known_old].T
            nearest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            best = np.take_along_axis(scores, nearest, axis=1).astype(np.float64)
            shares = np.exp((best - best[:, :1]) / self.temperature)
            shares /= shares.sum(axis=1, keepdims=True)
            for number, ids, row in zip(some.tolist(), known_old[nearest], shares, strict=True):
                found[number] = ids.tolist(), row.tolist()
        names = normalised_pieces(new)
        for number in set(new_ids) - set(found):
            if ids := [shared[number]] if number in shared else spell(old, names[number]):
                found[number] = ids, [1 / len(ids)] * len(ids)
        return found

    def _pairs(self) -> tuple[list[str], list[str]]:
        """The words of the dictionary, old and new. Raises `InputError`."""
        rows: list[tuple[str, str]] = []
        with open_text(Path(self.dictionary)) as (lines, _):
            for number, line in enumerate(lines, 1):
                parts = line.strip().split("\t") if "\t" in line.strip() else line.split()
                if not parts:
                    continue
                if len(parts) != 2:
                    raise InputError(f"{self.dictionary}, line {number}: holds {len(parts)} words, a pair is needed.")
                rows.append((parts[0].strip(), parts[1].strip()))
        return [one for one, _ in rows], [other for _, other in rows]

    def _turn(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """(D, D) the rotation that brings the words' vectors (n, D) nearest to their translations'."""
        both = (np.abs(ours).sum(1) > 0) & (np.abs(theirs).sum(1) > 0)
        if both.sum() < MIN_PAIRS:
            raise InputError(
                f"{self.dictionary}: {int(both.sum())} of its {len(both)} pairs occur in both texts; at least {MIN_PAIRS} "
                "are needed."
            )
        left, _, right = np.linalg.svd(ours[both].T @ theirs[both])
        turn: np.ndarray = (left @ right).astype(np.float32)
        return turn


def _words(tokenizer: Tokenizer, vectors: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """(n, D) unit vectors of words, the means of their pieces'; zeros for what did not occur."""
    found = np.zeros((len(words), vectors.shape[1]), np.float32)
    for place, ids in enumerate(tokenizer.encode_batch([f" {word}" for word in words])):
        if len(ids):
            found[place] = vectors[ids.astype(np.int64)].mean(0)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    unit: np.ndarray = np.divide(found, norms, out=np.zeros_like(found), where=norms > 1e-6)
    return unit
