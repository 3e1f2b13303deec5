"""What a new model knows before its first step: neighbours are counted within documents, words alike begin alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encodery.base.errors import SettingsError
from encodery.tokens import neighbours as counting
from encodery.tokens.neighbours import neighbours
from encodery.tokens.store import TokenStore
from encodery.train.begin.cooccurrence import Cooccurrence, _information, _vectors
from encodery.train.distributed import Team
from encodery.train.launch import resume, start
from encodery.train.pretrain import PretrainJob

Table = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")
COOCCURRENCE = {"begin": {"is": "cooccurrence"}}


def by_hand(store: Path, most: int) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
    pairs: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = {}
    left = most
    for document in TokenStore.open(store).train:
        ids = document.tolist()
        for place, token in enumerate(ids[:left]):
            seen[token] = seen.get(token, 0) + 1
            if place + 1 < len(ids):
                pair = (token, ids[place + 1])
                pairs[pair] = pairs.get(pair, 0) + 1
        left -= len(ids[:left])
    return pairs, seen


@pytest.mark.parametrize("part", [7, 1000, 10**6])
@pytest.mark.parametrize("most", [10**9, 999])
def test_pairs_are_counted_within_documents(store: Path, part: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "PART", part)
    split = TokenStore.open(store).train
    found = neighbours(split, 192, most)
    pairs, seen = by_hand(store, most)
    told = dict(zip(zip(found.left.tolist(), found.right.tolist(), strict=True), found.count.tolist(), strict=True))
    assert told == pairs
    assert {n: count for n, count in enumerate(found.seen.tolist()) if count} == seen


def test_the_vectors_are_the_leading_ones_of_the_whole_matrix(store: Path) -> None:
    found = neighbours(TokenStore.open(store).train, 192, 10**9)
    dense = []
    for word, context in ((found.left, found.right), (found.right, found.left)):
        count = np.zeros((192, 192))
        count[word, context] = found.count
        chance = count.sum(0) ** 0.75 / (count.sum(0) ** 0.75).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            information = np.log(count / (count.sum(1, keepdims=True) * chance))
        dense.append(np.where(count > 0, np.maximum(np.nan_to_num(information), 0), 0))
    whole = np.concatenate(dense, 1)
    for (table, turned), wanted in zip(_information(found), dense, strict=True):
        np.testing.assert_allclose((table @ torch.eye(192)).numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose((turned @ torch.eye(192)).numpy(), wanted.T, rtol=1e-5, atol=1e-6)
    u, s, _ = np.linalg.svd(whole)
    vectors = _vectors(found, 16, torch.Generator().manual_seed(0)).numpy()
    # Inner products do not see how the vectors are turned.
    np.testing.assert_allclose(vectors @ vectors.T, (u[:, :16] * s[:16]) @ u[:, :16].T, atol=0.02 * s[0] / 16)
    assert np.abs(vectors).std(0).min() > 0.2 * np.abs(vectors).std(0).max(), "no dimension stands out"


def test_words_between_the_same_neighbours_begin_alike_and_are_guessed_by_frequency(table: Table, store: Path) -> None:
    """The store's documents are walks on a ring of forty words, so neighbours on the ring share their neighbours."""
    drawn = PretrainJob.rebuild(table(), Team(), CPU)
    made = PretrainJob.rebuild(table(**COOCCURRENCE), Team(), CPU)
    words, before = made.model.encoder.words.detach(), drawn.model.encoder.words.detach()
    seen = torch.from_numpy(neighbours(TokenStore.open(store).train, 192, 10**9).seen) > 0
    assert torch.equal(words[~seen], before[~seen]), "what was never seen is as it was drawn"
    assert words[seen].std() == pytest.approx(0.1, rel=0.05)
    ring = torch.nn.functional.normalize(words[5:45], dim=1)
    alike = ring @ ring.T
    beside = torch.stack([alike[n, (n + 1) % 40] for n in range(40)]).mean()
    across = torch.stack([alike[n, (n + 20) % 40] for n in range(40)]).mean()
    assert beside > across + 0.5
    chance = made.model.heads["mlm"].bias.detach().softmax(0)
    share = torch.from_numpy(neighbours(TokenStore.open(store).train, 192, 10**9).seen + 1.0)
    torch.testing.assert_close(chance, (share / share.sum()).float())
    for name, p in made.model.named_parameters():
        if "word" not in name and not name.endswith("mlm.bias"):
            assert torch.equal(p, dict(drawn.model.named_parameters())[name]), name


def test_the_same_seed_begins_alike_and_another_otherwise(table: Table) -> None:
    first, again, other = (
        PretrainJob.rebuild(table(**COOCCURRENCE, train={"seed": seed}), Team(), CPU).model.encoder.words.detach()
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    torch.testing.assert_close(first[5:45] @ first[5:45].T, other[5:45] @ other[5:45].T, rtol=0.2, atol=0.02)


def test_a_table_wider_than_there_are_words_ends_in_zeros(store: Path) -> None:
    found = neighbours(TokenStore.open(store).train, 192, 10**9)
    wide = _vectors(found, 200, torch.Generator().manual_seed(0))
    assert wide.shape == (192, 200)
    assert wide[:, :192].any()
    assert not wide[:, 192:].any()


def test_a_run_is_resumed_as_it_was_and_older_ones_stay_themselves(
    table: Table, tmp_path: Path, losses: Callable[[Path], Any]
) -> None:
    start(table(**COOCCURRENCE, train={"budget": "6steps"}), tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    before = losses(tmp_path / "run")
    resume(tmp_path / "run")
    assert losses(tmp_path / "run") == before
    assert "begin" not in PretrainJob.rebuild(table(), Team(), CPU).identity()
    assert PretrainJob.rebuild(table(**COOCCURRENCE), Team(), CPU).identity()["begin"]["is"] == "cooccurrence"


def test_settings_are_checked() -> None:
    for bad in ({"std": 0.0}, {"tokens": 0}):
        with pytest.raises(SettingsError, match=next(iter(bad))):
            Cooccurrence(**bad)
