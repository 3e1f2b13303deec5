"""Tiles: neighbouring sequences of like length, attended to in one batched product whose scores stay in cache.

Lengths within a tile differ little, so that few scores are spent on nothing; those few are masked. What lies outside
attention never sees the shorter sequences' missing rows.
Shapes: n sequences of a tile, L their longest, t their real rows, N heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

SCORES = 2**18  # of one tile at most, unless one sequence alone has more: 1 MiB of fp32
SLACK = 0.8  # the shortest sequence of a tile has at least this share of the longest's length

HIDDEN = -1e30  # added to scores; finite, for a place without a token may have nothing at all to see


class AttentionTile:
    """Sequences `lengths`, whose rows are `rows` of the packed batch."""

    def __init__(self, start: int, lengths: Sequence[int], heads: int) -> None:
        self.lengths = tuple(lengths)
        self.count = len(lengths)
        self.length = max(lengths)
        self.heads = heads
        self.rows = slice(start, start + sum(lengths))
        self.even = min(lengths) == self.length

    @cached_property
    def _place(self) -> Tensor:
        """Row of the tile, counted from its first, at each place (n, L);
        the sequence's last where there is none."""
        ends = torch.tensor(self.lengths).cumsum(0)[:, None]
        starts = ends - torch.tensor(self.lengths)[:, None]
        return torch.minimum(starts + torch.arange(self.length), ends - 1)

    @cached_property
    def real(self) -> Tensor:
        """Whether a place holds a token (n, 1, L, 1)."""
        lengths = torch.tensor(self.lengths)[:, None]
        return (torch.arange(self.length) < lengths)[:, None, :, None]

    @cached_property
    def hidden(self) -> Tensor:
        """What is added to scores so that no token sees an empty place (n, 1, 1, L)."""
        lengths = torch.tensor(self.lengths)[:, None]
        empty = torch.arange(self.length) >= lengths
        return torch.zeros(empty.shape).masked_fill_(empty, HIDDEN)[:, None, None, :]

    def take_from(self, kinds: int) -> Tensor:
        """Which row of a packed (t·kinds·N, D) goes to each place of (kinds, n, N, L)."""
        if kinds not in self._taken:
            kind = torch.arange(kinds)[:, None, None, None]
            head = torch.arange(self.heads)[None, None, :, None]
            rows = self._place[None, :, None, :]
            self._taken[kinds] = ((rows * kinds + kind) * self.heads + head).flatten()
        return self._taken[kinds]

    def put_from(self, kinds: int) -> Tensor:
        """Which place of (kinds·n·N·L, D) goes to each row of a packed (t, kinds, N)."""
        if kinds not in self._put:
            kind = torch.arange(kinds)[None, :, None]
            head = torch.arange(self.heads)[None, None, :]
            one, spot = self.real[:, 0, :, 0].nonzero().unbind(1)
            place = (kind * self.count + one[:, None, None]) * self.heads + head
            self._put[kinds] = (place * self.length + spot[:, None, None]).flatten()
        return self._put[kinds]

    @cached_property
    def _taken(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def _put(self) -> dict[int, Tensor]:
        return {}

    def take(self, packed: Tensor) -> Tensor:
        """Rows of a packed (T, kinds, N, D) as (kinds, n·N, L, D); empty places repeat a row."""
        kinds, heads, size = packed.shape[1:]
        own = packed[self.rows]
        if self.count == 1:
            return own.permute(1, 2, 0, 3)
        shape = (kinds, self.count * heads, self.length, size)
        if self.even:
            return own.view(self.count, self.length, kinds, heads, size).permute(2, 0, 3, 1, 4).reshape(shape)
        return own.reshape(-1, size).index_select(0, self.take_from(kinds)).view(shape)

    def put(self, tile: Tensor, packed: Tensor) -> None:
        """Write (kinds, n·N, L, D) to the rows of a packed (T, kinds, N, D)."""
        kinds, heads, size = packed.shape[1:]
        own = packed[self.rows]
        if self.even:
            placed = tile.view(kinds, self.count, heads, self.length, size).permute(1, 3, 0, 2, 4)
            own.view(placed.shape).copy_(placed)
        else:
            own.copy_(tile.reshape(-1, size).index_select(0, self.put_from(kinds)).view(own.shape))


def attention_tiles(lengths: Sequence[int], heads: int) -> Iterator[AttentionTile]:
    """Cut a batch into tiles, in its order."""
    start, held = 0, list[int]()
    for length in lengths:
        longest = max([length, *held])
        shortest = min([length, *held])
        full = (len(held) + 1) * heads * longest**2 > SCORES
        if held and (full or shortest < SLACK * longest):
            yield AttentionTile(start, held, heads)
            start += sum(held)
            held = []
        held.append(length)
    if held:
        yield AttentionTile(start, held, heads)
