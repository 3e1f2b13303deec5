"""Tiles: consecutive sequences of similar length, computed in one batched product whose scores stay in cache.

Lengths within a tile differ little, so that few scores are wasted; those are masked. The padding of the shorter
sequences exists only inside attention.
Shapes: n sequences of a tile, L the longest of them, t their tokens, N heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

MAX_SCORES = 2**18
"""Scores of one tile, unless a single sequence has more: 1 MiB in fp32."""
MIN_LENGTH_RATIO = 0.8
"""The shortest sequence of a tile has at least this fraction of the longest one's length."""
MASKED = -1e30
"""Added to masked scores; finite, because every score of a padded query may be masked."""


class AttentionTile:
    """Sequences of the given `lengths`: the tokens `tokens` and the sequences `sequences` (slices) of the batch."""

    def __init__(self, start: int, first: int, lengths: Sequence[int], heads: int) -> None:
        self.lengths = tuple(lengths)
        self.count = len(lengths)
        self.length = max(lengths)
        self.heads = heads
        self.tokens = slice(start, start + sum(lengths))
        self.sequences = slice(first, first + len(lengths))
        self.even = min(lengths) == self.length

    @cached_property
    def _place(self) -> Tensor:
        """The token of the tile at each place (n, L), counted from its first; the sequence's last token at padding."""
        ends = torch.tensor(self.lengths).cumsum(0)[:, None]
        starts = ends - torch.tensor(self.lengths)[:, None]
        return torch.minimum(starts + torch.arange(self.length), ends - 1)

    @cached_property
    def real(self) -> Tensor:
        """Whether a place holds a token (n, 1, L, 1)."""
        lengths = torch.tensor(self.lengths)[:, None]
        return (torch.arange(self.length) < lengths)[:, None, :, None]

    @cached_property
    def padding(self) -> Tensor:
        """What is added to scores so that no token attends to padding (n, 1, 1, L)."""
        lengths = torch.tensor(self.lengths)[:, None]
        empty = torch.arange(self.length) >= lengths
        return torch.zeros(empty.shape).masked_fill_(empty, MASKED)[:, None, None, :]

    def _take_index(self, kinds: int) -> Tensor:
        """The row of a packed (t·kinds·N, D) for each place of (kinds, n, N, L)."""
        if kinds not in self._take_indices:
            kind = torch.arange(kinds)[:, None, None, None]
            head = torch.arange(self.heads)[None, None, :, None]
            tokens = self._place[None, :, None, :]
            self._take_indices[kinds] = ((tokens * kinds + kind) * self.heads + head).flatten()
        return self._take_indices[kinds]

    def _put_index(self, kinds: int) -> Tensor:
        """The place of (kinds·n·N·L, D) for each row of a packed (t, kinds, N)."""
        if kinds not in self._put_indices:
            kind = torch.arange(kinds)[None, :, None]
            head = torch.arange(self.heads)[None, None, :]
            sequence, position = self.real[:, 0, :, 0].nonzero().unbind(1)
            place = (kind * self.count + sequence[:, None, None]) * self.heads + head
            self._put_indices[kinds] = (place * self.length + position[:, None, None]).flatten()
        return self._put_indices[kinds]

    @cached_property
    def _take_indices(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def _put_indices(self) -> dict[int, Tensor]:
        return {}

    def take(self, packed: Tensor) -> Tensor:
        """The tile's tokens of a packed (T, kinds, N, D) as (kinds, n·N, L, D); padding repeats a token."""
        kinds, heads, size = packed.shape[1:]
        own = packed[self.tokens]
        if self.count == 1:
            return own.permute(1, 2, 0, 3)
        shape = (kinds, self.count * heads, self.length, size)
        if self.even:
            return own.view(self.count, self.length, kinds, heads, size).permute(2, 0, 3, 1, 4).reshape(shape)
        return own.reshape(-1, size).index_select(0, self._take_index(kinds)).view(shape)

    def put(self, tile: Tensor, packed: Tensor) -> None:
        """Write (kinds, n·N, L, D) to the tile's tokens of a packed (T, kinds, N, D)."""
        kinds, heads, size = packed.shape[1:]
        own = packed[self.tokens]
        if self.even:
            placed = tile.view(kinds, self.count, heads, self.length, size).permute(1, 3, 0, 2, 4)
            own.view(placed.shape).copy_(placed)
        else:
            own.copy_(tile.reshape(-1, size).index_select(0, self._put_index(kinds)).view(own.shape))


def attention_tiles(lengths: Sequence[int], heads: int) -> Iterator[AttentionTile]:
    """Split a batch into tiles, in its order."""
    start, first, current = 0, 0, list[int]()
    for length in lengths:
        longest = max([length, *current])
        shortest = min([length, *current])
        full = (len(current) + 1) * heads * longest**2 > MAX_SCORES
        if current and (full or shortest < MIN_LENGTH_RATIO * longest):
            yield AttentionTile(start, first, current, heads)
            start, first = start + sum(current), first + len(current)
            current = []
        current.append(length)
    if current:
        yield AttentionTile(start, first, current, heads)
