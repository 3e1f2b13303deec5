"""Checks of transfers, from a WordPiece to a byte-level vocabulary over the same small text."""

from __future__ import annotations

import functools

import numpy as np

from encodery.base.settings import decode, encode
from encodery.tokens.kind.bpe import Bpe
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.pieces import normalised_pieces
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import EmbeddingMix, Transfer

NOUNS, ANIMALS, PLACES = ("mill", "river", "tree"), ("cat", "dog"), ("road", "inn")
TEXTS = [f"the {a} {b} ran past the old {c}" for a in NOUNS for b in ANIMALS for c in PLACES]


@functools.cache
def example() -> tuple[Tokenizer, Tokenizer, dict[int, int]]:
    """Return the old and the new tokenizer, and the old id of each new one whose piece both have."""
    old, new = Tokenizer(Wordpiece(min_frequency=1).train(TEXTS, 60)), Tokenizer(Bpe().train(TEXTS, 300))
    old_ids = {piece: number for number, piece in normalised_pieces(old).items()}
    shared = {number: old_ids[piece] for number, piece in normalised_pieces(new).items() if piece in old_ids}
    return old, new, shared


def mixtures(part: Transfer) -> tuple[list[int], dict[int, EmbeddingMix]]:
    """Return the new ids that the part must initialise, and its mixtures."""
    old, new, shared = example()
    pieces = normalised_pieces(new)
    kept = set(shared) if part.keeps_shared else {n for n in shared if pieces[n][0] == "special"}
    new_ids = [number for number in pieces if number not in kept]
    return new_ids, part.mixtures(old, new, shared, new_ids)


def check_settings_round_trip(part: Transfer) -> None:
    """The part is what its settings decode to."""
    assert decode(Transfer, encode(part)) == part


def check_mixtures(part: Transfer) -> None:
    """Mixtures are of old ids, with weights that are not negative and sum to 1, for new ids only."""
    old, _, _ = example()
    new_ids, mixed = mixtures(part)
    assert set(mixed) <= set(new_ids)
    for ids, weights in mixed.values():
        assert len(ids) == len(weights) > 0
        assert all(0 <= number < old.used_size for number in ids)
        assert min(weights) >= 0
        assert np.isclose(sum(weights), 1.0)


def check_reproducible(part: Transfer) -> None:
    """Equal arguments give equal mixtures."""
    first, second = mixtures(part)[1], mixtures(part)[1]
    assert {n: list(ids) for n, (ids, _) in first.items()} == {n: list(ids) for n, (ids, _) in second.items()}
