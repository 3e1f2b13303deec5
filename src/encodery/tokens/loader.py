"""The only feed: packed batches of token ids from a store, in an order that is a function of a seed.

Documents become sequences of at most `max_length` tokens, [CLS] … [SEP] around each; long documents are cut, short
ones stay by themselves (packing costs nothing, and nothing attends across documents). Each epoch is a permutation
of all chunks under (seed, epoch), computed and not stored. Sequences are taken in that order until the next does not
fit the budget of tokens; the room left is filled with the best-fitting ones of the next `lookahead`, and if more than
1 % stays empty one sequence is cut in two. What was passed over comes first in the next batch.

The state is (epoch, cursor, the sequences passed over): small, exact, equal on all ranks and independent of their
number. A budget of tokens is that of all ranks together; every rank plans the same batch and takes its share, dealt
so that shares differ by less than the longest sequence. Sequences of a batch are sorted by length.

Shapes: T tokens, B sequences of this rank's share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from encodery.base.errors import CheckpointError, EmptyInput, SettingsError
from encodery.base.machine import derive_seed
from encodery.tokens.chunks import Chunks, DocumentChunks, StreamChunks
from encodery.tokens.fit import add_best_fitting, balance, min_chunk_length, split_long, split_to_fit
from encodery.tokens.shuffle import Integers, permute
from encodery.tokens.store import TokenSplit

BLOCK = 4096
FULL_ENOUGH = 0.99


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """`max_length`: longest sequence, special tokens included; a ramp stays at or below it. `batch_tokens`: budget of
    a batch of all ranks together. `order`: shuffled, or as stored. `min_length`: documents with fewer tokens are
    passed over. `specials`: put [CLS] and [SEP] around sequences. `grouped`: run documents together and cut every
    `max_length` tokens instead of keeping them apart. `shift`: cut elsewhere in every epoch. `lookahead`: how many
    sequences may be searched for one that fits.
    """

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
        if self.lookahead < 1:
            raise SettingsError(f"lookahead = {self.lookahead}: must be at least 1.")


Balancer = Callable[[Integers, int, int], Integers]
"""(lengths (B,) from long to short, budget, longest sequence) → (B,) the number of the micro-batch of each."""


class PackedBatch(NamedTuple):
    """A packed batch: `ids` (T,) int64, `cu_seqlens` (B+1,) int32, sequences sorted from short to long. `planned`:
    tokens of all ranks together, 0 where the batch was not drawn for one of several. `seats` (B,): the micro-batch that
    a sequence belongs to, where the feed has a dealer."""

    ids: npt.NDArray[np.int64]
    cu_seqlens: npt.NDArray[np.int32]
    global_tokens: int = 0
    micro_batch_ids: Integers = np.zeros(0, np.int64)

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
        """Length of the longest sequence; 0 for an empty batch."""
        return int(self.lengths.max(initial=0))


class _Pending(NamedTuple):
    """Where the feed stands. Arrays are never written to, so that a snapshot is a reference."""

    epoch: int
    cursor: int
    starts: Integers
    lengths: Integers


NOTHING: Integers = np.zeros(0, np.int64)


class PackedLoader:
    """Endless batches of a split for one rank of `world`. `apart`: the budget of a batch is one rank's, each rank has a
    batch of its own, and a batch has at most `most` sequences. `dealer`: deals a batch to micro-batches; of these
    this rank packs the numbers rank, rank + world, … and reads no other sequence.

    Raises `EmptyInput` if the split holds no document long enough.
    """

    def __init__(
        self,
        split: TokenSplit,
        settings: LoaderSettings,
        seed: int,
        rank: int = 0,
        world: int = 1,
        per_rank_batches: bool = False,
        max_sequences: int | None = None,
        balancer: Balancer | None = None,
    ) -> None:
        self.split, self.settings, self.seed, self.rank, self.world = split, settings, seed, rank, world
        self.per_rank_batches, self.max_sequences, self.balancer = per_rank_batches, max_sequences, balancer
        self.chunks = _chunks(split, settings)
        if not self.chunks.count:
            raise EmptyInput(f"The split '{split.name}' holds no document of {settings.min_length} tokens or more.")
        self._at = _Pending(0, 0, NOTHING, NOTHING)
        self._block: tuple[tuple[int, int], Integers, Integers] | None = None

    @property
    def epoch(self) -> int:
        """How many times all of the split has been drawn."""
        return self._at.epoch

    @property
    def progress(self) -> float:
        """Epochs drawn, with the fraction of the current one."""
        return self._at.epoch + self._at.cursor / self.chunks.count

    def next(self, batch_tokens: int | None = None, max_length: int | None = None) -> PackedBatch:
        """This rank's share of the next batch. `batch_tokens` and `max_length` replace the settings for this call.

        Raises `SettingsError` if a sequence of `max_length` would not fit every rank, or exceeds the settings' one.
        """
        sizes = self.resolve_limits(batch_tokens, max_length)
        if not self.per_rank_batches:
            return self._dealt(*sizes) if self.balancer is not None else self._share(*self._take(*sizes))
        taken = [self._take(*sizes) for _ in range(self.world)]
        starts, lengths = taken[self.rank]
        order = np.argsort(lengths, kind="stable")
        planned = sum(int((lengths + self.chunks.num_special_tokens).sum()) for _, lengths in taken)
        return _pack(self.chunks, starts[order], lengths[order])._replace(global_tokens=planned)

    def resolve_limits(self, batch_tokens: int | None = None, max_length: int | None = None) -> tuple[int, int]:
        """(budget in tokens, longest sequence) of a call of `next` with these arguments, checked."""
        budget = self.settings.batch_tokens if batch_tokens is None else batch_tokens
        longest = self.settings.max_length if max_length is None else max_length
        if not 8 <= longest <= self.settings.max_length:
            raise SettingsError(f"max_length = {longest}: must lie in 8..{self.settings.max_length}, the setting.")
        sharing = 1 if self.per_rank_batches or self.balancer is not None else self.world
        if budget < longest * sharing:
            raise SettingsError(
                f"batch_tokens = {budget}: must be at least max_length x ranks = {longest} x {sharing}."
            )
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
        # One place is kept for what is cut to fit.
        most = len(lengths) if self.max_sequences is None else self.max_sequences - 1
        taken = min(taken, most)
        chosen = np.arange(len(lengths)) < taken
        room = budget - int((lengths[:taken] + extra).sum())
        near = slice(taken, min(taken + self.settings.lookahead, most))
        room = add_best_fitting(lengths[near] + extra, chosen[near], room)
        batch = starts[chosen], lengths[chosen]
        starts, lengths = starts[~chosen], lengths[~chosen]
        if room > (1 - FULL_ENOUGH) * budget and room - extra >= min_chunk_length(size):
            batch, starts, lengths = split_to_fit(batch, starts, lengths, room - extra, min_chunk_length(size))
        self._at = self._at._replace(starts=starts, lengths=lengths)
        return batch

    def _draw(self, count: int) -> tuple[Integers, Integers]:
        """The next `count` chunks in the order of the epochs, or fewer: no more than one block of them."""
        epoch, cursor = self._at.epoch, self._at.cursor
        key = epoch, cursor // BLOCK
        if self._block is None or self._block[0] != key:
            self._block = (key, *self._locate(*key))
        _, starts, lengths = self._block
        begin = cursor % BLOCK
        piece = slice(begin, min(begin + count, len(starts)))
        cursor += piece.stop - begin
        if cursor == self.chunks.count:
            epoch, cursor = epoch + 1, 0
        self._at = self._at._replace(epoch=epoch, cursor=cursor)
        return starts[piece], lengths[piece]

    def _locate(self, epoch: int, block: int) -> tuple[Integers, Integers]:
        numbers = np.arange(block * BLOCK, min((block + 1) * BLOCK, self.chunks.count))
        if self.settings.order == "sequential":
            return self.chunks.locate(numbers, None)
        numbers = permute(numbers, self.chunks.count, derive_seed(self.seed, epoch, "order"))
        return self.chunks.locate(
            numbers, derive_seed(self.seed, epoch, "shift") if self.settings.random_offset else None
        )

    def _dealt(self, budget: int, longest: int) -> PackedBatch:
        assert self.balancer is not None
        starts, lengths = self._take(budget, longest)
        order = np.argsort(lengths, kind="stable")
        sizes = lengths[order] + self.chunks.num_special_tokens
        seats = self.balancer(sizes[::-1], budget, longest)[::-1]
        mine = seats % self.world == self.rank
        order = order[mine]
        packed = _pack(self.chunks, starts[order], lengths[order])
        return packed._replace(global_tokens=int(sizes.sum()), micro_batch_ids=seats[mine])

    def _share(self, starts: Integers, lengths: Integers) -> PackedBatch:
        order = np.argsort(lengths, kind="stable")
        if self.world > 1:
            order = order[::-1][
                balance(lengths[order[::-1]] + self.chunks.num_special_tokens, self.world) == self.rank
            ][::-1]
        return _pack(self.chunks, starts[order], lengths[order])

    def state(self) -> dict[str, Any]:
        """Where the feed stands, as JSON: the batches after `load_state` of it are those that would have come now."""
        return self.state_of(self._at)

    def state_of(self, snapshot: Any) -> dict[str, Any]:
        """`state` of a snapshot taken earlier."""
        return {
            "epoch": snapshot.epoch,
            "cursor": snapshot.cursor,
            "starts": snapshot.starts.tolist(),
            "lengths": snapshot.lengths.tolist(),
            "made_for": self._identity(),
        }

    @property
    def snapshot(self) -> Any:
        """Where the feed stands, at no cost; for `described`."""
        return self._at

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state. Raises `CheckpointError` if it was made for another store, seed or settings."""
        try:
            mine, other = self._identity(), state["made_for"]
            for name, value in mine.items():
                if other.get(name) != value:
                    raise CheckpointError(
                        f"The feed's state was made with {name} = {other.get(name)!r}, not {value!r}: "
                        "the batches would not continue where they stopped."
                    )
            starts, lengths = (np.asarray(state[name], dtype=np.int64) for name in ("starts", "lengths"))
            self._at = _Pending(int(state["epoch"]), int(state["cursor"]), starts, lengths)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"This is no state of a feed: {error!r}") from error

    def _identity(self) -> dict[str, Any]:
        fixed = {key: value for key, value in asdict(self.settings).items() if key != "batch_tokens"}
        return {"store": self.split.identity, "seed": self.seed, **fixed}


def evaluation_batches(
    split: TokenSplit, settings: LoaderSettings, rank: int = 0, world: int = 1
) -> Iterator[PackedBatch]:
    """Every chunk of a split once, as stored, for measurement; batches hold up to `batch_tokens` over all ranks.

    Every rank yields the same number of batches; a share may be empty (T = 0) in the last one.
    """
    chunks = _chunks(split, settings)
    held = NOTHING, NOTHING
    for first in range(0, chunks.count, BLOCK):
        more = chunks.locate(np.arange(first, min(first + BLOCK, chunks.count)), None)
        starts, lengths = np.concatenate([held[0], more[0]]), np.concatenate([held[1], more[1]])
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
        held = starts[begin:], lengths[begin:]


def _chunks(split: TokenSplit, settings: LoaderSettings) -> Chunks:
    if settings.group_texts:
        return StreamChunks(
            split, settings.max_length, min_chunk_length(settings.max_length), settings.add_special_tokens
        )
    size = settings.max_length - (2 if settings.add_special_tokens else 0)
    return DocumentChunks(split, size, min_chunk_length(size), settings.min_length, settings.add_special_tokens)


def _pack(chunks: Chunks, starts: Integers, lengths: Integers) -> PackedBatch:
    cu_seqlens = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths + chunks.num_special_tokens, out=cu_seqlens[1:])
    ids = np.empty(int(cu_seqlens[-1]), np.int64)
    edges = cu_seqlens.tolist()
    for i, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        chunks.write(start, length, ids[edges[i] : edges[i + 1]])
    return PackedBatch(ids, cu_seqlens)
