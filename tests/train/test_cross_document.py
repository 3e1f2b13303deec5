"""Runs across related documents: batches over ranks, exact resuming, and the loss with and without them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import InputError
from encodery.tokens.feeds.related_documents import RelatedDocuments
from encodery.tokens.loader import LoaderSettings, PackedBatch, PackedLoader
from encodery.tokens.store import TokenStore
from encodery.train.heldout import fed_batches
from encodery.train.launch import resume, start
from encodery.train.recipe import Recipe

SETTINGS = LoaderSettings(max_length=32, batch_tokens=256)


@pytest.mark.parametrize("feed", [RelatedDocuments(documents=3), RelatedDocuments(joined=False)])
def test_two_ranks_read_what_one_reads_and_a_state_continues_exactly(feed: RelatedDocuments, store: Path) -> None:
    def groups(batch: PackedBatch) -> list[list[int]]:
        """The sequences of each piece, joined."""
        ends = batch.cu_seqlens[:: feed.sequences]
        return [batch.ids[a:b].tolist() for a, b in itertools.pairwise(ends)]

    train = TokenStore.open(store).train
    whole = PackedLoader(train, SETTINGS, 3, feed=feed)
    ranks = [PackedLoader(train, SETTINGS, 3, rank, 2, feed=feed) for rank in range(2)]
    for _ in range(4):
        state, batch = whole.state(), whole.next()
        assert batch.tokens <= 256
        assert sorted(group for rank in ranks for group in groups(rank.next())) == sorted(groups(batch))
        assert batch.relation is not None
        assert batch.relation.max() == feed.documents - 1
    again = PackedLoader(train, SETTINGS, 3, feed=feed)
    again.load_state(state)
    assert groups(again.next()) == groups(batch)


def test_a_run_is_resumed_bit_for_bit_and_judged_in_related_documents(
    table: Callable[..., Recipe[Any]],
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    recipe = table(objective={"is": "cross_document", "documents": 3})
    metrics = start(recipe, tmp_path / "whole").metrics
    assert {"heldout_loss", "bits_per_byte", "related_loss", "related_accuracy"} <= metrics.keys()
    assert metrics["related_loss"] == pytest.approx(metrics["heldout_loss"], rel=0.1)
    with power_cut(6):
        start(recipe, tmp_path / "torn")
    resume(tmp_path / "torn")
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")


def test_held_out_batches_of_a_feed_are_always_the_same(store: Path) -> None:
    split = TokenStore.open(store).heldout
    first, second = (list(fed_batches(split, SETTINGS, RelatedDocuments(), 400)) for _ in range(2))
    assert [batch.ids.tolist() for batch in first] == [batch.ids.tolist() for batch in second]
    assert 400 <= sum(batch.tokens for batch in first) < 800
    assert sum(batch.tokens for batch in fed_batches(split, SETTINGS, RelatedDocuments(), 10**9)) < 1.5 * split.tokens
    assert all(int(batch.extra["relation"].max()) == 1 for batch in first)


def test_tokens_without_groups_are_refused_before_the_first_step(
    table: Callable[..., Recipe[Any]], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = table(objective={"is": "cross_document"})
    monkeypatch.setattr("encodery.tokens.store.GROUPS", "nothing.npy")
    with pytest.raises(InputError, match="--group-by KEY"):
        start(recipe, tmp_path / "run")
    assert np.load(store / "train/groups.npy").tolist()[:4] == [0, 0, 0, 1]
