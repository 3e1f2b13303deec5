"""How a split is divided into chunks, and what the sequence of a chunk is. Chunks are numbered, not listed.

`DocumentChunks`: a document of n tokens makes ceil(n / size) chunks, each between [CLS] and [SEP]. In every epoch the
boundaries are elsewhere: the first chunk has what the others leave, plus a random part of the slack, so the number of
chunks stays the same and no chunk of a divided document is shorter than `min_chunk` tokens.
`StreamChunks`: all documents, each with its [CLS] and [SEP], are joined and divided every `size` tokens, as the usual
masked-language-model scripts group texts; the first boundary is elsewhere in every epoch.

Memory: 8 bytes for 64 documents (`DocumentChunks`), nothing (`StreamChunks`); the index of documents stays on disk.

Shapes: n chunks located at once, D documents.
"""

from __future__ import annotations

import bisect
from typing import Protocol

import numpy as np
import numpy.typing as npt

from encodery.tokens.shuffle import Integers, hash_under_key, scale_hashes
from encodery.tokens.store import TokenSplit

DOCUMENTS_PER_ENTRY = 64
DOCUMENTS_COUNTED_AT_ONCE = 1 << 20


class Chunks(Protocol):
    """`count` chunks; each gets `num_special_tokens` special tokens when it becomes a sequence."""

    count: int
    num_special_tokens: int

    def locate(self, indices: Integers, shift_key: int | None) -> tuple[Integers, Integers]:
        """Return (starts (n,), lengths (n,)) of chunks; `shift_key` decides the epoch's offsets, None means none."""

    def write(self, start: int, length: int, out: npt.NDArray[np.int64]) -> None:
        """Write the sequence (length + num_special_tokens,) of a chunk, or of a part of one, into `out`."""


class DocumentChunks:
    """Chunks that never cross a document. `size`: the longest chunk; documents of fewer than `min_document` tokens have
    none."""

    def __init__(
        self, split: TokenSplit, size: int, min_chunk: int, min_document: int, add_special_tokens: bool
    ) -> None:
        self.split, self.size, self.min_chunk, self.min_document = split, size, min_chunk, max(min_document, 1)
        self.num_special_tokens = 2 if add_special_tokens else 0
        entries = -(-len(split) // DOCUMENTS_PER_ENTRY)
        self.chunks_before = np.zeros(entries + 1, np.int64)
        for first in range(0, entries, DOCUMENTS_COUNTED_AT_ONCE // DOCUMENTS_PER_ENTRY):
            last = min(first + DOCUMENTS_COUNTED_AT_ONCE // DOCUMENTS_PER_ENTRY, entries)
            counts = self._counts(np.diff(split.offsets[first * DOCUMENTS_PER_ENTRY : last * DOCUMENTS_PER_ENTRY + 1]))
            self.chunks_before[first + 1 : last + 1] = np.add.reduceat(
                counts, np.arange(0, len(counts), DOCUMENTS_PER_ENTRY)
            )
        np.cumsum(self.chunks_before, out=self.chunks_before)
        self.count = int(self.chunks_before[-1])

    def _counts(self, lengths: Integers) -> Integers:
        return np.where(lengths < self.min_document, 0, -(-lengths // self.size))

    def locate(self, indices: Integers, shift_key: int | None) -> tuple[Integers, Integers]:
        """See `Chunks.locate`."""
        entry = self.chunks_before.searchsorted(indices, "right") - 1
        documents = np.minimum(
            entry[:, None] * DOCUMENTS_PER_ENTRY + np.arange(DOCUMENTS_PER_ENTRY + 1), len(self.split)
        )
        edges = self.split.offsets[documents]
        lengths = np.diff(edges, axis=1)
        counts = self._counts(lengths)
        ends = np.cumsum(counts, axis=1)
        local = indices - self.chunks_before[entry]
        column = (ends <= local[:, None]).sum(axis=1)
        index = np.arange(len(indices)), column
        part = local - (ends[index] - counts[index])
        shift = None if shift_key is None else hash_under_key(entry * DOCUMENTS_PER_ENTRY + column, shift_key)
        starts, sizes = chunk_bounds(lengths[index], part, self.size, self.min_chunk, shift)
        return edges[index] + starts, sizes

    def write(self, start: int, length: int, out: npt.NDArray[np.int64]) -> None:
        """See `Chunks.write`."""
        if self.num_special_tokens:
            out[0], out[-1] = self.split.special_tokens.cls_id, self.split.special_tokens.sep_id
            out = out[1:-1]
        out[:] = self.split.read(start, length)


class StreamChunks:
    """Chunks of all documents joined; positions count each document's [CLS] and [SEP]."""

    num_special_tokens = 0

    def __init__(self, split: TokenSplit, size: int, min_chunk: int, add_special_tokens: bool) -> None:
        self.split, self.size, self.min_chunk = split, size, min_chunk
        self.special_per_document = 2 if add_special_tokens else 0
        self.tokens = split.tokens + self.special_per_document * len(split)
        self.count = -(-self.tokens // size)

    def locate(self, indices: Integers, shift_key: int | None) -> tuple[Integers, Integers]:
        """See `Chunks.locate`."""
        shift = None if shift_key is None else hash_under_key(np.zeros_like(indices), shift_key)
        return chunk_bounds(np.full_like(indices, self.tokens), indices, self.size, self.min_chunk, shift)

    def write(self, start: int, length: int, out: npt.NDArray[np.int64]) -> None:
        """See `Chunks.write`."""
        number = self._document_at(start)
        written = 0
        while written < length:
            ids = self._whole(number)
            begin = start + written - int(self._begin(number))
            piece = ids[begin : begin + length - written]
            out[written : written + len(piece)] = piece
            written += len(piece)
            number += 1

    def _begin(self, number: int) -> int:
        return int(self.split.offsets[number]) + self.special_per_document * number

    def _document_at(self, position: int) -> int:
        return bisect.bisect_right(range(len(self.split) + 1), position, key=self._begin) - 1

    def _whole(self, number: int) -> npt.NDArray[np.int64]:
        ids = self.split[number]
        if not self.special_per_document:
            return ids.astype(np.int64)
        whole = np.empty(len(ids) + 2, np.int64)
        whole[0], whole[1:-1], whole[-1] = self.split.special_tokens.cls_id, ids, self.split.special_tokens.sep_id
        return whole


def chunk_bounds(
    lengths: Integers, part: Integers, size: int, min_chunk: int, offset_hashes: npt.NDArray[np.uint64] | None = None
) -> tuple[Integers, Integers]:
    """Return (starts, lengths) of part number `part` (n,) of runs of `lengths` (n,) tokens, divided into ceil(length /
    size).

    The first and the last part share what the full ones leave; both keep at least `min_chunk` tokens (at most size / 2)
    if a run is divided at all. Without `offset_hashes` (n,) the first part is as long as possible.
    """
    parts = -(-lengths // size)
    rest = lengths - (parts - 1) * size
    shortest, longest = np.maximum(rest, min_chunk), np.minimum(size, size + rest - min_chunk)
    first = longest if offset_hashes is None else shortest + scale_hashes(offset_hashes, longest - shortest + 1)
    first = np.where(parts == 1, lengths, first)
    starts = np.where(part == 0, 0, first + (part - 1) * size)
    sizes = np.where(part == 0, first, np.minimum(size, lengths - starts))
    return starts, sizes
