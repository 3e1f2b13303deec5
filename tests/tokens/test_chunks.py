"""Chunks: their bounds by the rule written out, and that those of a split cover every token once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from encodery.tokens.chunks import DocumentChunks, StreamChunks, chunk_bounds
from encodery.tokens.shuffle import hash_under_key
from encodery.tokens.store import TokenSplit, TokenStore

LENGTHS = [10, 0, 25, 1, 3, 64, 17, 128] * 20  # more than the 64 documents of an entry of the index
SIZE, MIN_CHUNK = 10, 3


@pytest.fixture(scope="module")
def split(make_store: Callable[..., TokenStore], tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    return make_store(tmp_path_factory.mktemp("chunks") / "store", LENGTHS).train


def bounds(length: int, shift: int | None = None) -> list[tuple[int, int]]:
    """(start, length) of every part of a run."""
    parts = np.arange(-(-length // SIZE))
    hashes = None if shift is None else hash_under_key(np.zeros_like(parts), shift)
    starts, sizes = chunk_bounds(np.full_like(parts, length), parts, SIZE, MIN_CHUNK, hashes)
    return list(zip(starts.tolist(), sizes.tolist(), strict=True))


def test_bounds_without_offset_make_the_first_part_as_long_as_possible() -> None:
    assert bounds(7) == [(0, 7)]
    assert bounds(10) == [(0, 10)]
    assert bounds(14) == [(0, 10), (10, 4)]
    assert bounds(11) == [(0, 8), (8, 3)], "the last part keeps `min_chunk` tokens"
    assert bounds(25) == [(0, 10), (10, 10), (20, 5)]


@pytest.mark.parametrize("length", [11, 14, 25, 28, 30, 101])
def test_bounds_cover_a_run_for_every_offset(length: int) -> None:
    first_sizes = set()
    for shift in range(60):
        parts = bounds(length, shift)
        assert len(parts) == -(-length // SIZE), "the number of parts depends on the offset"
        assert [start for start, _ in parts] == np.cumsum([0, *(size for _, size in parts)])[:-1].tolist()
        assert sum(size for _, size in parts) == length
        assert all(MIN_CHUNK <= size <= SIZE for _, size in parts)
        first_sizes.add(parts[0][1])
    rest = length - (len(bounds(length)) - 1) * SIZE
    assert first_sizes == set(range(max(rest, MIN_CHUNK), min(SIZE, SIZE + rest - MIN_CHUNK) + 1))


@pytest.mark.parametrize("shift_key", [None, 5])
def test_document_chunks_cover_every_document_once(split: TokenSplit, shift_key: int | None) -> None:
    chunks = DocumentChunks(split, SIZE, MIN_CHUNK, min_document=2, add_special_tokens=True)
    assert chunks.count == sum(-(-n // SIZE) for n in LENGTHS if n >= 2)
    starts, lengths = chunks.locate(np.arange(chunks.count), shift_key)
    covered = np.zeros(split.tokens, np.int64)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        covered[start : start + length] += 1
        document = int(split.offsets.searchsorted(start, "right")) - 1
        assert start + length <= split.offsets[document + 1], "a chunk crosses a document"
    short = [int(split.offsets[i]) for i, n in enumerate(LENGTHS) if n == 1]
    assert set(np.flatnonzero(covered == 0).tolist()) == set(short)
    assert covered.max() == 1


def test_a_document_chunk_is_written_between_special_tokens(split: TokenSplit) -> None:
    chunks = DocumentChunks(split, SIZE, MIN_CHUNK, min_document=1, add_special_tokens=True)
    starts, lengths = chunks.locate(np.array([1]), None)
    out = np.empty(int(lengths[0]) + chunks.num_special_tokens, np.int64)
    chunks.write(int(starts[0]), int(lengths[0]), out)
    special = split.special_tokens
    assert out.tolist() == [special.cls_id, *split[2][:10].tolist(), special.sep_id]


@pytest.mark.parametrize("add_special_tokens", [False, True])
@pytest.mark.parametrize("shift_key", [None, 5])
def test_stream_chunks_are_the_joined_documents(
    split: TokenSplit, add_special_tokens: bool, shift_key: int | None
) -> None:
    chunks = StreamChunks(split, SIZE, MIN_CHUNK, add_special_tokens)
    special = split.special_tokens
    ends = ([special.cls_id], [special.sep_id]) if add_special_tokens else ([], [])
    stream = [token for ids in split for token in (*ends[0], *ids.tolist(), *ends[1])]
    starts, lengths = chunks.locate(np.arange(chunks.count), shift_key)
    parts = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        out = np.empty(length, np.int64)
        chunks.write(start, length, out)
        parts += out.tolist()
    assert parts == stream
    assert lengths.max() == SIZE


def test_any_chunks_can_be_located_at_once(split: TokenSplit) -> None:
    chunks = DocumentChunks(split, SIZE, MIN_CHUNK, min_document=1, add_special_tokens=True)
    order = np.random.default_rng(0).permutation(chunks.count)
    starts, lengths = chunks.locate(order, 9)
    all_starts, all_lengths = chunks.locate(np.arange(chunks.count), 9)
    assert np.array_equal(starts, all_starts[order])
    assert np.array_equal(lengths, all_lengths[order])
