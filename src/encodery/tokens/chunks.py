"""How a split is cut into chunks, and what a chunk's sequence looks like. Chunks are numbered; none are listed.

`DocumentChunks`: a document of n tokens makes ceil(n / size) chunks, [CLS] and [SEP] around each. In every epoch the
first cut falls elsewhere: the first chunk takes what the others leave over, plus a random share of the slack, so the
number of chunks stays the same and no chunk of a cut document is shorter than `least` tokens.
`StreamChunks`: all documents, each with its [CLS] and [SEP], run together and cut every `size` tokens, the way the
usual masked-language-model scripts group texts; the first cut falls elsewhere in every epoch.

Memory: 8 bytes for 64 documents (`DocumentChunks`), nothing (`StreamChunks`); the index of documents stays on disk.

Shapes: n chunks asked for at once, D documents.
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
    """`count` chunks; `extra` special tokens are added to each when it becomes a sequence."""

    count: int
    num_special_tokens: int

    def locate(self, indices: Integers, shift_key: int | None) -> tuple[Integers, Integers]:
        """(starts (n,), lengths (n,)) of chunks; `key` names the epoch's shift, None leaves chunks unshifted."""

    def write(self, start: int, length: int, out: npt.NDArray[np.int64]) -> None:
        """Write the sequence (length + extra,) of a chunk or a part of one into `out`."""


class DocumentChunks:
    """Chunks that never cross a document. `size`: longest chunk; `shortest`: shorter documents have no chunk."""

    def __init__(
        self, split: TokenSplit, size: int, min_chunk: int, min_document: int, add_special_tokens: bool
    ) -> None:
        self.split, self.size, self.min_chunk, self.min_document = split, size, min_chunk, max(min_document, 1)
        self.num_special_tokens = 2 if add_special_tokens else 0
        rows = -(-len(split) // DOCUMENTS_PER_ENTRY)
        self.chunks_before = np.zeros(rows + 1, np.int64)
        for first in range(0, rows, DOCUMENTS_COUNTED_AT_ONCE // DOCUMENTS_PER_ENTRY):
            last = min(first + DOCUMENTS_COUNTED_AT_ONCE // DOCUMENTS_PER_ENTRY, rows)
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
        row = self.chunks_before.searchsorted(indices, "right") - 1
        near = np.minimum(row[:, None] * DOCUMENTS_PER_ENTRY + np.arange(DOCUMENTS_PER_ENTRY + 1), len(self.split))
        edges = self.split.offsets[near]
        lengths = np.diff(edges, axis=1)
        counts = self._counts(lengths)
        ends = np.cumsum(counts, axis=1)
        local = indices - self.chunks_before[row]
        column = (ends <= local[:, None]).sum(axis=1)
        pick = np.arange(len(indices)), column
        part = local - (ends[pick] - counts[pick])
        shift = None if shift_key is None else hash_under_key(row * DOCUMENTS_PER_ENTRY + column, shift_key)
        starts, sizes = chunk_bounds(lengths[pick], part, self.size, self.min_chunk, shift)
        return edges[pick] + starts, sizes

    def write(self, start: int, length: int, out: npt.NDArray[np.int64]) -> None:
        """See `Chunks.write`."""
        if self.num_special_tokens:
            out[0], out[-1] = self.split.special_tokens.cls_id, self.split.special_tokens.sep_id
            out = out[1:-1]
        out[:] = self.split.read(start, length)


class StreamChunks:
    """Chunks of all documents run together; positions count each document's [CLS] and [SEP]."""

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
        done = 0
        while done < length:
            ids = self._whole(number)
            begin = start + done - int(self._begin(number))
            piece = ids[begin : begin + length - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
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
    """(starts, lengths) of part number `part` (n,) of runs of `lengths` (n,) tokens cut into ceil(length / size).

    The first and the last part share what the full ones leave; both keep at least `least` tokens (at most size / 2)
    where a run is cut at all. Without `shift` (n,) hashes the first part is as long as it can be.
    """
    parts = -(-lengths // size)
    rest = lengths - (parts - 1) * size
    shortest, longest = np.maximum(rest, min_chunk), np.minimum(size, size + rest - min_chunk)
    first = longest if offset_hashes is None else shortest + scale_hashes(offset_hashes, longest - shortest + 1)
    first = np.where(parts == 1, lengths, first)
    starts = np.where(part == 0, 0, first + (part - 1) * size)
    sizes = np.where(part == 0, first, np.minimum(size, lengths - starts))
    return starts, sizes
