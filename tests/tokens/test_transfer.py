"""Rows for a new vocabulary: vectors of company, sparse weights, languages turned onto each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from encodery.base.errors import EmptyInput, InputError, SettingsError
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.transfer import _vectors
from encodery.tokens.transfer._vectors import sparsemax, static_vectors
from encodery.tokens.transfer.bilingual import Bilingual
from encodery.tokens.transfer.similar_pieces import SimilarPieces

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOPICS = 12


def words(side: str) -> Tokenizer:
    pieces = [*SPECIALS, *(f"{side}{i}" for i in range(TOPICS * 5))]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(SPECIALS)
    made = Tokenizer(inner)
    made.set_template()
    return made


def text(side: str, seed: int, folder: Path) -> str:
    """Sentences that walk from word to word of a circle: neighbours there are neighbours here."""
    rng = np.random.default_rng(seed)
    count = TOPICS * 5
    rows = []
    for _ in range(1500):
        at = int(rng.integers(count))
        steps = rng.integers(-3, 4, 10)
        rows.append(" ".join(f"{side}{(at + int(step)) % count}" for step in steps))
    path = folder / f"{side}{seed}.txt"
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


def test_sparsemax_equals_its_definition() -> None:
    """The nearest point of the simplex: weights of what is chosen differ as the scores do, the others lie below."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, (50, 30))
    weights = sparsemax(scores)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert weights.min() == 0
    for row, row_scores in zip(weights, scores, strict=True):
        threshold = (row_scores - row)[row > 0]
        np.testing.assert_allclose(threshold, threshold[0])
        assert (row_scores[row == 0] <= threshold[0] + 1e-12).all()
    np.testing.assert_array_equal(sparsemax(np.array([[3.0, 0.0, 1.0]])), [[1.0, 0.0, 0.0]])


def test_pieces_with_similar_neighbours_have_similar_vectors(tmp_path: Path) -> None:
    tokenizer = words("a")
    vectors, seen = static_vectors(tokenizer, Path(text("a", 0, tmp_path)), 20, 5)
    assert len(seen) == TOPICS * 5
    np.testing.assert_allclose(np.linalg.norm(vectors[seen], axis=1), 1, atol=1e-5)
    near = vectors[5:] @ vectors[5:].T
    np.fill_diagonal(near, -1)
    best = near[: TOPICS * 5, : TOPICS * 5].argmax(1)
    apart = np.abs(best - np.arange(TOPICS * 5))
    assert (np.minimum(apart, TOPICS * 5 - apart) <= 2).mean() > 0.9
    again, _ = static_vectors(tokenizer, Path(text("a", 0, tmp_path)), 20, 5)
    np.testing.assert_array_equal(vectors, again)


def test_neighbours_are_counted_within_texts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts.txt").write_text("a0 a1 a2\na3\na0 a1\n", encoding="utf-8")
    for run in (1, 1_000_000):
        monkeypatch.setattr(_vectors, "TOKENS_PER_RUN", run)
        monkeypatch.setattr(_vectors, "PIECES_AT_ONCE", 1)
        tokenizer = words("a")
        pairs, counts = _vectors._pairs(tokenizer, tmp_path / "texts.txt", 2, 100)
        mixtures = {divmod(int(pair), 100): float(count) for pair, count in zip(pairs, counts, strict=True)}
        assert mixtures == {(5, 6): 2, (6, 5): 2, (6, 7): 1, (7, 6): 1, (5, 7): 0.5, (7, 5): 0.5}


def test_new_pieces_are_mixtures_of_similar_shared_ones(tmp_path: Path) -> None:
    """Of a circle of words every third is new: it must be made of those beside it."""
    old, new = words("a"), words("a")
    shared = {n: n for n in range(5, 5 + TOPICS * 5) if n % 3}
    new_ids = [n for n in range(5, 5 + TOPICS * 5) if n % 3 == 0]
    mixtures = SimilarPieces(texts=text("a", 0, tmp_path), width=20).mixtures(old, new, shared, new_ids)
    assert set(mixtures) == set(new_ids)
    count = TOPICS * 5
    for number, (ids, weights) in mixtures.items():
        assert set(ids) <= set(shared.values())
        apart = np.abs(np.array(ids) - number)
        assert float(np.array(weights) @ np.minimum(apart, count - apart)) < 6, "near, on the whole"


def test_words_are_mapped_to_their_translations(tmp_path: Path) -> None:
    """The same walk in two languages whose words are numbered otherwise; half of them are in the dictionary."""
    old, new = words("a"), words("b")
    order = np.random.default_rng(1).permutation(TOPICS * 5)
    source = text("a", 0, tmp_path)
    lines = Path(text("a", 1, tmp_path)).read_text(encoding="utf-8").splitlines()
    target = tmp_path / "target.txt"
    target.write_text(
        "\n".join(" ".join(f"b{order[int(w[1:])]}" for w in line.split()) for line in lines), encoding="utf-8"
    )
    known = range(0, TOPICS * 5, 2)
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("".join(f"a{i} b{order[i]}\n\n" for i in known), encoding="utf-8")
    part = Bilingual(source_texts=source, target_texts=str(target), dictionary=str(pairs), width=20, neighbours=3)
    assert not part.keeps_shared
    mixtures = part.mixtures(old, new, {}, list(range(5, 5 + TOPICS * 5)))
    others = [i for i in range(TOPICS * 5) if i not in known]
    near = []
    for i in others:
        ids, weights = mixtures[int(order[i]) + 5]
        best = ids[int(np.argmax(weights))] - 5
        near.append(min(abs(best - i), TOPICS * 5 - abs(best - i)) <= 1)
    assert np.mean(near) > 0.8, "of words that the dictionary lacks"


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    old = words("a")
    path = tmp_path / "texts.txt"
    path.write_text("q q q\n", encoding="utf-8")
    source = text("a", 0, tmp_path)
    pairs = tmp_path / "pairs.txt"
    table: dict[str, Any] = {"source_texts": source, "target_texts": source, "dictionary": str(pairs)}
    for content, message in (("a1 b1 c1\n", "line 1: holds 3 words"), ("a1\ta1\n", "1 of its 1 pairs")):
        pairs.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Bilingual(**table).mixtures(old, old, {}, [5])
    path.write_text("\u3000\n\n", encoding="utf-8")
    with pytest.raises(EmptyInput):
        SimilarPieces(texts=str(path)).mixtures(old, old, {}, [5])
    with pytest.raises(InputError, match="no corpus"):
        SimilarPieces(texts=str(tmp_path)).mixtures(old, old, {}, [5])
    with pytest.raises(SettingsError, match="window = 99"):
        SimilarPieces(texts="x", window=99)
