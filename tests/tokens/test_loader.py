"""The loader: every token once per epoch, full batches, exact state, the same batches for any number of ranks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encodery.base.errors import CheckpointError, EmptyInput, SettingsError
from encodery.tokens.loader import LoaderSettings, PackedBatch, PackedLoader, evaluation_batches
from encodery.tokens.prefetch import Prefetch
from encodery.tokens.store import TokenSplit, TokenStore

LENGTHS = [int(n) for n in np.random.default_rng(1).geometric(1 / 40, 400)] + [1000, 0, 1, 126, 127, 252]


@pytest.fixture(scope="module")
def store(make_store: Callable[..., TokenStore], tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("loader") / "store", LENGTHS)


@pytest.fixture
def split(store: TokenStore) -> TokenSplit:
    return store.train


def settings(**changes: object) -> LoaderSettings:
    return LoaderSettings(**{"max_length": 128, "batch_tokens": 2048, **changes})  # type: ignore[arg-type]


def sequences(batch: PackedBatch) -> list[list[int]]:
    edges = batch.cu_seqlens.tolist()
    return [batch.ids[a:b].tolist() for a, b in itertools.pairwise(edges)]


def same(left: PackedBatch, right: PackedBatch) -> bool:
    return np.array_equal(left.ids, right.ids) and np.array_equal(left.cu_seqlens, right.cu_seqlens)


def trigrams_of(documents: list[list[int]]) -> set[tuple[int, ...]]:
    """Every run of three neighbouring ids: what a sequence may contain."""
    return {tuple(ids[i : i + 3]) for ids in documents for i in range(len(ids) - 2)}


def test_sequences_are_parts_of_one_document_between_cls_and_sep(split: TokenSplit) -> None:
    allowed = trigrams_of([ids.tolist() for ids in split])
    loader = PackedLoader(split, settings(), seed=3)
    for _ in range(30):
        batch = loader.next()
        assert batch.ids.dtype == np.int64
        assert batch.cu_seqlens.dtype == np.int32
        assert (np.diff(batch.lengths) >= 0).all()
        assert batch.tokens <= 2048
        assert batch.max_seqlen <= 128
        for ids in sequences(batch):
            assert (ids[0], ids[-1]) == (split.special_tokens.cls_id, split.special_tokens.sep_id)
            assert trigrams_of([ids[1:-1]]) <= allowed
            assert len(ids) > 2


@pytest.mark.parametrize("group_texts", [False, True])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_holds_every_token_exactly_once(split: TokenSplit, group_texts: bool, epoch: int) -> None:
    loader = PackedLoader(split, settings(group_texts=group_texts), seed=3)
    seen = np.zeros(512, np.int64)
    for block in range(-(-loader.chunks.count // 4096)):
        for start, length in zip(*loader._locate(epoch, block), strict=True):
            out = np.empty(length + loader.chunks.num_special_tokens, np.int64)
            loader.chunks.write(int(start), int(length), out)
            seen += np.bincount(out, minlength=512)
    expected = np.bincount(np.concatenate(list(split)), minlength=512)
    assert np.array_equal(seen[5:], expected[5:])
    if group_texts:
        assert seen[split.special_tokens.cls_id] == seen[split.special_tokens.sep_id] == len(split)


def test_batches_of_an_epoch_hold_every_token_except_pending_ones(split: TokenSplit) -> None:
    loader = PackedLoader(split, settings(), seed=3)
    seen = np.zeros(512, np.int64)
    while loader.epoch < 5:
        seen += np.bincount(loader.next().ids, minlength=512)
    out = np.bincount(np.concatenate(list(split)), minlength=512)
    missing = loader.progress * split.tokens - seen[5:].sum()
    assert 0 <= missing < 128 * 300
    assert np.abs(seen[5:] / seen[5:].sum() - out[5:] / out[5:].sum()).max() < 5e-4


def test_epochs_differ_and_equal_seeds_repeat(split: TokenSplit) -> None:
    first, again, other = (PackedLoader(split, settings(), seed=s) for s in (3, 3, 4))
    batches = [first.next() for _ in range(5)]
    assert all(same(batch, again.next()) for batch in batches)
    assert not any(same(batch, other.next()) for batch in batches)
    orders = [first._locate(epoch, 0)[0].tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_chunk_boundaries_move_between_epochs_unless_switched_off(split: TokenSplit) -> None:
    moving, fixed = PackedLoader(split, settings(), seed=3), PackedLoader(split, settings(random_offset=False), seed=3)
    boundaries = [set(moving._locate(epoch, 0)[0].tolist()) for epoch in range(2)]
    assert boundaries[0] != boundaries[1]
    boundaries = [set(fixed._locate(epoch, 0)[0].tolist()) for epoch in range(2)]
    assert boundaries[0] == boundaries[1]


@pytest.mark.parametrize("group_texts", [False, True])
@pytest.mark.parametrize("budget", [1500, 2048, 4000])
def test_batches_are_full(split: TokenSplit, group_texts: bool, budget: int) -> None:
    loader = PackedLoader(split, settings(batch_tokens=budget, group_texts=group_texts), seed=1)
    for _ in range(60):
        assert 0.99 * budget <= loader.next().tokens <= budget


def test_batches_of_equal_long_chunks_are_full_as_well(make_store: Callable[..., TokenStore], tmp_path: Path) -> None:
    loader = PackedLoader(make_store(tmp_path / "s", [1260] * 40).train, settings(batch_tokens=2000), seed=1)
    for _ in range(40):
        assert 0.99 * 2000 <= loader.next().tokens <= 2000


RAMP = [(2048, 128), (2048, 128), (1024, 32), (1500, 64), (4096, 128), (1024, 17), (2048, 128)]


def ramped(loader: PackedLoader | Prefetch, step: int) -> PackedBatch:
    return loader.next(*RAMP[step % len(RAMP)])


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("sizes", ["fixed", "ramp"])
@pytest.mark.parametrize("group_texts", [False, True])
def test_a_resumed_loader_continues_exactly(split: TokenSplit, ahead: bool, sizes: str, group_texts: bool) -> None:
    def take(loader: PackedLoader | Prefetch, step: int) -> PackedBatch:
        return ramped(loader, step) if sizes == "ramp" else loader.next()

    whole = PackedLoader(split, settings(group_texts=group_texts), seed=9)
    states, batches = [], []
    for step in range(60):
        states.append(json.dumps(whole.state()))
        batches.append(take(whole, step))
    assert whole.epoch >= 3
    ends = [s for s in range(59) if json.loads(states[s])["epoch"] < json.loads(states[s + 1])["epoch"]]
    assert len(ends) >= 3
    for point in [0, 7, 31, *ends, *(end + 1 for end in ends)]:
        loader = PackedLoader(split, settings(group_texts=group_texts), seed=9)
        loader.next()
        if ahead:
            with Prefetch(loader, depth=3) as prefetch:
                prefetch.load_state(json.loads(states[point]))
                for step in range(point, 60):
                    assert json.loads(states[step]) == prefetch.state()
                    assert same(batches[step], take(prefetch, step))
        else:
            loader.load_state(json.loads(states[point]))
            for step in range(point, 60):
                assert json.loads(states[step]) == loader.state()
                assert same(batches[step], take(loader, step))


def test_ramps_are_obeyed(split: TokenSplit) -> None:
    loader = PackedLoader(split, settings(), seed=9)
    for step in range(40):
        budget, longest = RAMP[step % len(RAMP)]
        batch = ramped(loader, step)
        assert batch.tokens <= budget
        assert batch.max_seqlen <= longest
        assert batch.tokens >= 0.97 * budget


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_divide_the_batch_evenly(split: TokenSplit, world: int) -> None:
    alone = PackedLoader(split, settings(), seed=5)
    ranks = [PackedLoader(split, settings(), seed=5, rank=r, world=world) for r in range(world)]
    for _ in range(25):
        batch, partitions = alone.next(), [loader.next() for loader in ranks]
        together = sorted(ids for partition in partitions for ids in sequences(partition))
        assert together == sorted(sequences(batch))
        counts = [partition.tokens for partition in partitions]
        assert min(counts) > 0
        assert max(counts) - min(counts) <= batch.max_seqlen
        assert all((np.diff(partition.lengths) >= 0).all() for partition in partitions)
    assert all(loader.state() == alone.state() for loader in ranks)


def test_the_number_of_ranks_may_change_at_a_resume(split: TokenSplit) -> None:
    alone, pair = PackedLoader(split, settings(), seed=5), PackedLoader(split, settings(), seed=5, rank=1, world=2)
    for _ in range(9):
        alone.next()
    pair.load_state(alone.state())
    assert set(map(tuple, sequences(pair.next()))) < set(map(tuple, sequences(alone.next())))


def test_a_state_of_another_loader_is_refused(split: TokenSplit) -> None:
    state = PackedLoader(split, settings(), seed=5).state()
    with pytest.raises(CheckpointError, match="seed = 5, not 6"):
        PackedLoader(split, settings(), seed=6).load_state(state)
    with pytest.raises(CheckpointError, match="max_length"):
        PackedLoader(split, settings(max_length=64), seed=5).load_state(state)
    with pytest.raises(CheckpointError, match="no state of a loader"):
        PackedLoader(split, settings(), seed=5).load_state({"epoch": 1})


def test_invalid_sizes_are_refused(split: TokenSplit) -> None:
    with pytest.raises(SettingsError, match="at least max_length"):
        settings(batch_tokens=100)
    with pytest.raises(SettingsError, match="ranks"):
        PackedLoader(split, settings(), seed=1, world=20).next()
    with pytest.raises(SettingsError, match=r"8\.\.128"):
        PackedLoader(split, settings(), seed=1).next(max_length=256)
    with pytest.raises(EmptyInput, match="5000"):
        PackedLoader(split, settings(min_length=5000), seed=1)


def test_short_documents_can_be_skipped(split: TokenSplit) -> None:
    loader = PackedLoader(split, settings(min_length=50), seed=1)
    starts, _ = loader._locate(0, 0)
    owners = np.searchsorted(split.offsets, starts, "right") - 1
    assert set(owners.tolist()) == set(np.flatnonzero(split.lengths >= 50).tolist())


@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_batches_hold_everything_once_in_order(split: TokenSplit, world: int) -> None:
    ranks = [list(evaluation_batches(split, settings(batch_tokens=700), rank, world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = np.concatenate([batch.ids for batches in ranks for batch in batches])
    expected = np.bincount(np.concatenate(list(split)), minlength=512)
    assert np.array_equal(np.bincount(seen, minlength=512)[5:], expected[5:])
    if world == 1:
        assert all(batch.tokens <= 700 for batch in ranks[0])
        assert np.mean([batch.tokens for batch in ranks[0]]) > 600


def test_an_exception_in_the_thread_reaches_the_caller_and_the_loader_continues(
    split: TokenSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, loader = PackedLoader(split, settings(), seed=2), PackedLoader(split, settings(), seed=2)
    write, broken = loader.chunks.write, [False]

    def fail(*arguments: object) -> None:
        if broken[0]:
            raise OSError("the disk went away")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loader.chunks, "write", fail)
    with Prefetch(loader, depth=2) as prefetch:
        assert same(alone.next(), prefetch.next())
        prefetch.load_state(prefetch.state())
        broken[0] = True
        with pytest.raises(OSError, match="went away"):
            for _ in range(4):
                prefetch.next()
                alone.next()
        broken[0] = False
        assert prefetch.state() == alone.state()
        assert same(alone.next(), prefetch.next())
    assert loader.state() == alone.state()
