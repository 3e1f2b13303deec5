"""Loads packed batches of token ids from a store, in an order that is a function of a seed. There is no other loader.

Documents become sequences of at most `max_length` tokens between [CLS] and [SEP]; long documents are divided, short
ones stay separate (packing costs nothing, and nothing attends across documents). Each epoch is a permutation of all
chunks under (seed, epoch), computed and not stored. Sequences are taken in that order until the next does not fit the
budget of tokens; the room that is left is filled with the best-fitting ones of the next `lookahead`, and if more than
1 % stays empty one sequence is divided in two. What was skipped comes first in the next batch.

The state is (epoch, cursor, the skipped sequences): small, exact, equal on all ranks and independent of their number. A
budget of tokens is that of all ranks together; every rank plans the same batch and takes its partition, whose tokens
differ from another rank's by less than the longest sequence. Sequences of a batch are sorted by length.

Shapes: T tokens, B sequences of this rank's partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from encodery.base.errors import CheckpointError, EmptyInput, SettingsError
from encodery.base.machine import derive_seed
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least, encode
from encodery.tokens.chunks import Chunks, DocumentChunks, StreamChunks
from encodery.tokens.feeds import DataFeed
from encodery.tokens.fit import add_best_fitting, balance, min_chunk_length, split_long, split_to_fit
from encodery.tokens.shuffle import Integers, hash_under_key, permute, scale_hashes
from encodery.tokens.store import TokenSplit

BLOCK = 4096
MIN_FILL = 0.99


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """`max_length`: the longest sequence, special tokens included; a ramp stays at or below it. `batch_tokens`: the
    tokens of a batch of all ranks together. `order`: shuffled, or as stored. `min_length`: documents with fewer tokens
    are skipped. `add_special_tokens`: put [CLS] and [SEP] around sequences. `group_texts`: join documents and divide
    every `max_length` tokens instead of keeping them apart. `random_offset`: divide elsewhere in every epoch.
    `lookahead`: the number of sequences that are searched for one that fits."""

    max_length: int = 128
    batch_tokens: int = 4096
    order: Literal["shuffled", "sequential"] = "shuffled"
    min_length: int = 1
    add_special_tokens: bool = True
    group_texts: bool = False
    random_offset: bool = True
    lookahead: int = 128

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise SettingsError(f"max_length = {self.max_length}: a sequence needs at least 8 tokens.")
        if self.batch_tokens < self.max_length:
            raise SettingsError(
                f"batch_tokens = {self.batch_tokens}: must be at least max_length ({self.max_length}), "
                "or a sequence would fit no batch."
            )
        check_at_least(self, 1, "lookahead")


Balancer = Callable[[Integers, int, int], Integers]
"""(lengths (B,) from long to short, budget, longest sequence) → (B,) the micro-batch of each sequence."""


class PackedBatch(NamedTuple):
    """A packed batch: `ids` (T,) int64, `cu_seqlens` (B+1,) int32, sequences sorted from short to long.
    `global_tokens`: the tokens of all ranks together, 0 if the batch was not drawn for one of several.
    `micro_batch_ids` (B,): the micro-batch of each sequence, if the loader has a balancer. With a feed, `segment` (T,)
    is the segment of each token and `relation` (B,) the label of the piece that each sequence is made of."""

    ids: npt.NDArray[np.int64]
    cu_seqlens: npt.NDArray[np.int32]
    global_tokens: int = 0
    micro_batch_ids: Integers = np.zeros(0, np.int64)
    segment: Integers | None = None
    relation: Integers | None = None

    @property
    def tokens(self) -> int:
        """T, special tokens included."""
        return len(self.ids)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(B,) int32."""
        return np.diff(self.cu_seqlens)

    @property
    def max_seqlen(self) -> int:
        """The length of the longest sequence; 0 for an empty batch."""
        return int(self.lengths.max(initial=0))


class _Pending(NamedTuple):
    """The state of the loader. Arrays are never written to, so that a snapshot is a reference."""

    epoch: int
    cursor: int
    starts: Integers
    lengths: Integers


EMPTY: Integers = np.zeros(0, np.int64)


class PackedLoader:
    """Endless batches of a split for one rank of `world`.

    `max_sequences`: if set, the budget is one rank's, and each rank has its own batch of no more sequences than that.
    `balancer`: assigns the sequences of a batch to micro-batches; this rank packs the micro-batches rank, rank + world,
    … and reads no other sequence. `feed`: what the sequences
    are made of (None: pieces of documents). Raises `EmptyInput` if the split holds no document that is long enough.
    """

    def __init__(
        self,
        split: TokenSplit,
        settings: LoaderSettings,
        seed: int,
        rank: int = 0,
        world: int = 1,
        max_sequences: int | None = None,
        balancer: Balancer | None = None,
        feed: DataFeed | None = None,
    ) -> None:
        self.split, self.settings, self.seed, self.rank, self.world = split, settings, seed, rank, world
        self.max_sequences, self.balancer = max_sequences, balancer
        self.feed = feed
        self.chunks = _chunks(split, settings, feed)
        if not self.chunks.count:
            raise EmptyInput(f"The split '{split.name}' holds no document of {settings.min_length} tokens or more.")
        self._at = _Pending(0, 0, EMPTY, EMPTY)
        self._block: tuple[tuple[int, int], Integers, Integers] | None = None

    @property
    def epoch(self) -> int:
        """How many times all of the split has been drawn."""
        return self._at.epoch

    @property
    def progress(self) -> float:
        """The number of epochs drawn, with the fraction of the current one."""
        return self._at.epoch + self._at.cursor / self.chunks.count

    def next(self, batch_tokens: int | None = None, max_length: int | None = None) -> PackedBatch:
        """Return this rank's partition of the next batch. The arguments replace the settings for this call.

        Raises `SettingsError` if a sequence of `max_length` would not fit every rank, or is longer than the setting
        allows.
        """
        sizes = self.resolve_limits(batch_tokens, max_length)
        if self.max_sequences is None:
            before = self._at
            return self._balanced(*sizes) if self.balancer is not None else self._partition(*self._take(*sizes), before)
        before = self._at
        taken = [self._take(*sizes) for _ in range(self.world)]
        starts, lengths = taken[self.rank]
        order = np.argsort(lengths, kind="stable")
        planned = sum(int((lengths + self.chunks.num_special_tokens).sum()) for _, lengths in taken)
        return self._pack(starts[order], lengths[order], before)._replace(global_tokens=planned)

    def resolve_limits(self, batch_tokens: int | None = None, max_length: int | None = None) -> tuple[int, int]:
        """Return (budget in tokens, longest sequence) of a call of `next` with these arguments, checked."""
        budget = self.settings.batch_tokens if batch_tokens is None else batch_tokens
        longest = self.settings.max_length if max_length is None else max_length
        if not 8 <= longest <= self.settings.max_length:
            raise SettingsError(f"max_length = {longest}: must be in 8..{self.settings.max_length}, the setting.")
        ranks = 1 if self.max_sequences is not None or self.balancer is not None else self.world
        if budget < longest * ranks:
            raise SettingsError(f"batch_tokens = {budget}: must be at least max_length x ranks = {longest} x {ranks}.")
        return budget, longest

    def _take(self, budget: int, longest: int) -> tuple[Integers, Integers]:
        extra = self.chunks.num_special_tokens
        size = longest - extra
        starts, lengths = split_long(self._at.starts, self._at.lengths, size)
        taken = int(np.cumsum(lengths + extra).searchsorted(budget, "right"))
        while len(lengths) - taken < self.settings.lookahead:
            missing = max(budget - int((lengths + extra).sum()), 0)
            more = self._draw(self.settings.lookahead + missing // longest)
            more_starts, more_lengths = split_long(*more, size)
            starts, lengths = np.concatenate([starts, more_starts]), np.concatenate([lengths, more_lengths])
            taken = int(np.cumsum(lengths + extra).searchsorted(budget, "right"))
        # One sequence is reserved for the drawn that is split to fit.
        limit = len(lengths) if self.max_sequences is None else self.max_sequences - 1
        taken = min(taken, limit)
        chosen = np.arange(len(lengths)) < taken
        room = budget - int((lengths[:taken] + extra).sum())
        candidates = slice(taken, min(taken + self.settings.lookahead, limit))
        room = add_best_fitting(lengths[candidates] + extra, chosen[candidates], room)
        batch = starts[chosen], lengths[chosen]
        starts, lengths = starts[~chosen], lengths[~chosen]
        if room > (1 - MIN_FILL) * budget and room - extra >= min_chunk_length(size):
            batch, starts, lengths = split_to_fit(batch, starts, lengths, room - extra, min_chunk_length(size))
        self._at = self._at._replace(starts=starts, lengths=lengths)
        return batch

    def _draw(self, count: int) -> tuple[Integers, Integers]:
        """The next `count` chunks in the order of the epochs, or fewer: at most the rest of one block."""
        epoch, cursor = self._at.epoch, self._at.cursor
        key = epoch, cursor // BLOCK
        if self._block is None or self._block[0] != key:
            self._block = (key, *self._locate(*key))
        _, starts, lengths = self._block
        begin = cursor % BLOCK
        drawn = slice(begin, min(begin + count, len(starts)))
        cursor += drawn.stop - begin
        if cursor == self.chunks.count:
            epoch, cursor = epoch + 1, 0
        self._at = self._at._replace(epoch=epoch, cursor=cursor)
        return starts[drawn], lengths[drawn]

    def _locate(self, epoch: int, block: int) -> tuple[Integers, Integers]:
        numbers = np.arange(block * BLOCK, min((block + 1) * BLOCK, self.chunks.count))
        if self.settings.order == "sequential":
            return self.chunks.locate(numbers, None)
        numbers = permute(numbers, self.chunks.count, derive_seed(self.seed, epoch, "order"))
        return self.chunks.locate(
            numbers, derive_seed(self.seed, epoch, "shift") if self.settings.random_offset else None
        )

    def _balanced(self, budget: int, longest: int) -> PackedBatch:
        assert self.balancer is not None
        before = self._at
        starts, lengths = self._take(budget, longest)
        order = np.argsort(lengths, kind="stable")
        sizes = lengths[order] + self.chunks.num_special_tokens
        micro_batch_ids = self.balancer(sizes[::-1], budget, longest)[::-1]
        own = micro_batch_ids % self.world == self.rank
        order = order[own]
        packed = self._pack(starts[order], lengths[order], before)
        ids = micro_batch_ids[own] if self.feed is None else micro_batch_ids[own].repeat(self.feed.sequences)
        return packed._replace(global_tokens=int(sizes.sum()), micro_batch_ids=ids)

    def _partition(self, starts: Integers, lengths: Integers, before: _Pending) -> PackedBatch:
        order = np.argsort(lengths, kind="stable")
        if self.world > 1:
            order = order[::-1][
                balance(lengths[order[::-1]] + self.chunks.num_special_tokens, self.world) == self.rank
            ][::-1]
        return self._pack(starts[order], lengths[order], before)

    def _pack(self, starts: Integers, lengths: Integers, before: _Pending) -> PackedBatch:
        """The batch of these pieces. A feed draws from where the loader was before the batch, and from each piece."""
        if self.feed is None:
            return _pack(self.chunks, starts, lengths)
        key = derive_seed(self.seed, "pieces", before.epoch, before.cursor, len(before.starts))
        draws = np.stack([scale_hashes(hash_under_key(starts * 3 + i, key), 2**31 - 1) for i in range(3)], 1)
        return _compose(self.feed, self.split, starts, lengths, draws)

    def state(self) -> dict[str, Any]:
        """Return the state as JSON: after `load_state` of it, the next batches are those that would have come now."""
        return self.state_of(self._at)

    def state_of(self, snapshot: Any) -> dict[str, Any]:
        """Return the `state` of a snapshot taken earlier."""
        return {
            "epoch": snapshot.epoch,
            "cursor": snapshot.cursor,
            "starts": snapshot.starts.tolist(),
            "lengths": snapshot.lengths.tolist(),
            "made_for": self._identity(),
        }

    @property
    def snapshot(self) -> Any:
        """The state, at no cost; for `state_of`."""
        return self._at

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state. Raises `CheckpointError` if it is of another store, seed or settings."""
        try:
            own, other = self._identity(), state["made_for"]
            for name, value in own.items():
                if other.get(name) != value:
                    raise CheckpointError(
                        f"The loader's state was written with {name} = {other.get(name)!r}, not {value!r}: "
                        "the batches would not continue where they stopped."
                    )
            starts, lengths = (np.asarray(state[name], dtype=np.int64) for name in ("starts", "lengths"))
            self._at = _Pending(int(state["epoch"]), int(state["cursor"]), starts, lengths)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"This is no state of a loader: {error!r}") from error

    def _identity(self) -> dict[str, Any]:
        fixed = {key: value for key, value in asdict(self.settings).items() if key != "batch_tokens"}
        feed = {} if self.feed is None else {"feed": encode(self.feed)}
        return {"store": self.split.identity, "seed": self.seed, **fixed, **feed}


def evaluation_batches(
    split: TokenSplit, settings: LoaderSettings, rank: int = 0, world: int = 1
) -> Iterator[PackedBatch]:
    """Yield every chunk of a split once, as stored, in batches of up to `batch_tokens` tokens over all ranks.

    Every rank yields the same number of batches; a partition may be empty (T = 0) in the last one.
    """
    chunks = _chunks(split, settings)
    pending = EMPTY, EMPTY
    for first in range(0, chunks.count, BLOCK):
        more = chunks.locate(np.arange(first, min(first + BLOCK, chunks.count)), None)
        starts, lengths = np.concatenate([pending[0], more[0]]), np.concatenate([pending[1], more[1]])
        last = first + BLOCK >= chunks.count
        begin = 0
        while begin < len(lengths):
            ends = np.cumsum(lengths[begin:] + chunks.num_special_tokens)
            if ends[-1] <= settings.batch_tokens and not last:
                break
            end = begin + int(ends.searchsorted(settings.batch_tokens, "right"))
            order = begin + np.argsort(lengths[begin:end], kind="stable")
            order = order[::-1][balance(lengths[order[::-1]] + chunks.num_special_tokens, world) == rank][::-1]
            yield _pack(chunks, starts[order], lengths[order])
            begin = end
        pending = starts[begin:], lengths[begin:]


def _chunks(split: TokenSplit, settings: LoaderSettings, feed: DataFeed | None = None) -> Chunks:
    if feed is not None:
        if settings.group_texts or not settings.add_special_tokens:
            raise SettingsError(
                f"The feed '{name_of(feed)}' needs feed.group_texts = false and feed.add_special_tokens = true."
            )
        feed.check_split(split)
        size = settings.max_length - feed.num_special_tokens
        chunks = DocumentChunks(split, size, min_chunk_length(size), max(settings.min_length, 2), True)
        chunks.num_special_tokens = feed.num_special_tokens
        return chunks
    if settings.group_texts:
        return StreamChunks(
            split, settings.max_length, min_chunk_length(settings.max_length), settings.add_special_tokens
        )
    size = settings.max_length - (2 if settings.add_special_tokens else 0)
    return DocumentChunks(split, size, min_chunk_length(size), settings.min_length, settings.add_special_tokens)


def _compose(feed: DataFeed, split: TokenSplit, starts: Integers, lengths: Integers, draws: Integers) -> PackedBatch:
    """The sequences that a feed makes of pieces; `draws` (n, 3)."""
    pieces = [
        feed.compose(split, start, length, own)
        for start, length, own in zip(starts.tolist(), lengths.tolist(), draws, strict=True)
    ]
    sizes = [length for piece in pieces for length in piece.lengths]
    cu_seqlens = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=cu_seqlens[1:])
    ids, segment = (np.concatenate([EMPTY, *(piece[i] for piece in pieces)]) for i in range(2))
    relation = np.array([piece.relation for piece in pieces], np.int64).repeat(feed.sequences)
    return PackedBatch(ids, cu_seqlens, segment=segment, relation=relation)


def _pack(chunks: Chunks, starts: Integers, lengths: Integers) -> PackedBatch:
    cu_seqlens = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths + chunks.num_special_tokens, out=cu_seqlens[1:])
    ids = np.empty(int(cu_seqlens[-1]), np.int64)
    edges = cu_seqlens.tolist()
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        chunks.write(start, length, ids[edges[i] : edges[i + 1]])
    return PackedBatch(ids, cu_seqlens)
