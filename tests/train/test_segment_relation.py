"""Runs on pairs of segments: the loader's batches over ranks, exact resuming, and what is reported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from encodery.base.errors import SettingsError
from encodery.export.hf import HFExporter
from encodery.model.load import load_model
from encodery.tokens.feeds import DataFeed
from encodery.tokens.feeds.neighbours import Neighbours
from encodery.tokens.feeds.segment_pairs import SegmentPairs
from encodery.tokens.loader import LoaderSettings, PackedBatch, PackedLoader
from encodery.tokens.store import TokenStore
from encodery.train.launch import resume, start
from encodery.train.recipe import Recipe

MODEL = {"extra_heads": ["segment_relation"], "type_vocab_size": 2}
JOINED = LoaderSettings(max_length=32, batch_tokens=256, group_texts=True)
SETTINGS = LoaderSettings(max_length=32, batch_tokens=256)


def sequences(batch: PackedBatch) -> list[tuple[list[int], int]]:
    """The ids and the label of each sequence."""
    assert batch.relation is not None
    bounds = zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], batch.relation.tolist(), strict=True)
    return [(batch.ids[a:b].tolist(), label) for a, b, label in bounds]


@pytest.mark.parametrize(
    "feed", [SegmentPairs(), SegmentPairs(relation="order"), SegmentPairs(relation="linked"), Neighbours()]
)
def test_two_ranks_read_what_one_reads_and_a_state_continues_exactly(feed: DataFeed, store: Path) -> None:
    train = TokenStore.open(store).train
    whole = PackedLoader(train, SETTINGS, 3, feed=feed)
    ranks = [PackedLoader(train, SETTINGS, 3, rank, 2, feed=feed) for rank in range(2)]
    for _ in range(4):
        state, batch = whole.state(), whole.next()
        assert batch.tokens <= 256
        assert max(batch.lengths) <= 32
        parts = [sequence for rank in ranks for sequence in sequences(rank.next())]
        assert sorted(parts) == sorted(sequences(batch))
    again = PackedLoader(train, SETTINGS, 3, feed=feed)
    again.load_state(state)
    assert sequences(again.next()) == sequences(batch)


def test_pairs_differ_from_epoch_to_epoch(store: Path) -> None:
    loader = PackedLoader(TokenStore.open(store).train, SETTINGS, 3, feed=SegmentPairs())
    first = [tuple(ids) for _ in range(5) for ids, _ in sequences(loader.next())]
    while loader.epoch < 1:
        loader.next()
    later = {tuple(ids) for _ in range(200) for ids, _ in sequences(loader.next())}
    assert sum(ids in later for ids in first) < 0.3 * len(first)


@pytest.mark.parametrize("relation", ["next", "order"])
def test_a_run_is_resumed_bit_for_bit_and_reports_the_relation(
    relation: str,
    table: Callable[..., Recipe[Any]],
    tmp_path: Path,
    power_cut: Callable[[int], AbstractContextManager[None]],
    losses: Callable[[Path], dict[int, float]],
) -> None:
    recipe = table(model=MODEL, objective={"is": "segment_relation", "relation": relation})
    metrics = start(recipe, tmp_path / "whole").metrics
    assert {"heldout_loss", "bits_per_byte", "relation", "relation_accuracy"} <= metrics.keys()
    loaded = load_model(tmp_path / "whole")
    assert set(loaded.model.heads) == {"mlm", "segment_relation"}
    assert HFExporter(verify_with_peer=False).write(loaded, tmp_path / "hf").format == "bert"
    assert load_model(tmp_path / "hf").model.settings.head_name == "mlm+segment_relation"
    with power_cut(6):
        start(recipe, tmp_path / "torn")
    resume(tmp_path / "torn")
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")


def test_related_documents_are_a_third_relation_and_no_stock_class_has_it(
    table: Callable[..., Recipe[Any]], tmp_path: Path
) -> None:
    linked = {"is": "segment_relation", "relation": "linked"}
    with pytest.raises(SettingsError, match=r'set model.extra_heads=\[\{is="segment_relation", relations=3\}\]'):
        table(model=MODEL, objective=linked)
    heads = [{"is": "segment_relation", "relations": 3}]
    metrics = start(table(model={**MODEL, "extra_heads": heads}, objective=linked), tmp_path / "run").metrics
    assert {"heldout_loss", "bits_per_byte", "relation", "relation_accuracy"} <= metrics.keys()
    assert 0 < metrics["relation"] < 2
    with pytest.raises(SettingsError, match=r"bert: extra_heads.relations = 3 \(needs 2\)"):
        HFExporter(verify_with_peer=False).write(load_model(tmp_path / "run"), tmp_path / "hf")


def test_a_feed_refuses_joined_documents(store: Path) -> None:
    with pytest.raises(SettingsError, match=r"feed\.group_texts"):
        PackedLoader(TokenStore.open(store).train, JOINED, 3, feed=SegmentPairs())
