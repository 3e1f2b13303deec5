"""What every transfer promises, over whatever parts lie in the folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encodery.base.parts import part_names
from encodery.base.settings import decode, encode
from encodery.tokens.kind.bpe import Bpe
from encodery.tokens.kind.wordpiece import Wordpiece
from encodery.tokens.pieces import normalised_pieces
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import Transfer

TEXTS = [
    f"the {a} {b} ran past the old {c}"
    for a in ("mill", "river", "tree")
    for b in ("cat", "dog")
    for c in ("road", "inn")
]
WORDS = ["the", "ran", "past", "old", "mill", "river", "tree", "cat", "dog", "road", "inn"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    (folder / "pairs.tsv").write_text("".join(f"{word}\t{word}\n" for word in WORDS), encoding="utf-8")
    texts, pairs = str(folder / "texts.txt"), str(folder / "pairs.tsv")
    return {
        "similar_pieces": {"texts": texts, "width": 8},
        "bilingual": {"source_texts": texts, "target_texts": texts, "dictionary": pairs, "width": 8},
    }


@pytest.mark.parametrize("name", part_names(Transfer))
def test_new_pieces_are_mixes_of_old_ones(name: str, tables: dict[str, dict[str, Any]]) -> None:
    part = decode(Transfer, {"is": name, **tables.get(name, {})})
    assert decode(Transfer, encode(part)) == part
    old, new = Tokenizer(Wordpiece(min_frequency=1).train(TEXTS, 60)), Tokenizer(Bpe().train(TEXTS, 300))
    numbers = {piece: number for number, piece in normalised_pieces(old).items()}
    shared = {number: numbers[piece] for number, piece in normalised_pieces(new).items() if piece in numbers}
    kept = set(shared) if part.keeps_shared else {n for n in shared if normalised_pieces(new)[n][0] == "special"}
    wanted = [number for number in normalised_pieces(new) if number not in kept]
    found = part.mixtures(old, new, shared, wanted)
    assert set(found) <= set(wanted)
    for ids, shares in found.values():
        assert len(ids) == len(shares) > 0
        assert all(0 <= number < old.used_size for number in ids)
        assert min(shares) >= 0
        assert np.isclose(sum(shares), 1.0)
    again = part.mixtures(old, new, shared, wanted)
    assert {n: list(ids) for n, (ids, _) in again.items()} == {n: list(ids) for n, (ids, _) in found.items()}
