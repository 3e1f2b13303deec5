"""The reach of attention: which tokens of its document a token attends to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.settings import check_at_least


@dataclass(frozen=True)
class Reach:
    """Which tokens of its document a token attends to. By default, to all of them.

    A query at position i attends to a key at position j if j lies in its reach on the left and on the right, or if one
    of the two is a global position:

        left:  i - j <= left, or j < sinks
        right: j - i <= right, or j < prefix

    Args:
        left: Tokens before it that a token attends to (None: all).
        right: Tokens after it that a token attends to (None: all; 0: attention is causal).
        sinks: The first `sinks` tokens stay within reach on the left, however far they are. arXiv:2309.17453
        prefix: The first `prefix` tokens stay within reach on the right, so they attend to each other in both
            directions. A batch may have a length for each sequence besides (`Batch.prefix`).
        global_positions: Positions that attend to all tokens, and that all tokens attend to. arXiv:2004.05150

    Raises `SettingsError` for a negative number.

        Reach(left=64, right=64)  # local attention
        Reach(right=0)            # causal attention
    """

    left: int | None = None
    right: int | None = None
    sinks: int = 0
    prefix: int = 0
    global_positions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(self, 0, "left", "right", "sinks", "prefix")
        if min(self.global_positions, default=0) < 0:
            raise SettingsError(f"global_positions = {self.global_positions}: must be at least 0.")

    @property
    def is_unlimited(self) -> bool:
        """Whether every token attends to its whole document."""
        return self.left is None and self.right is None

    @property
    def is_local(self) -> bool:
        """Whether distance limits the reach on both sides, apart from sinks and global positions."""
        return self.left is not None and self.right is not None

    @property
    def is_band(self) -> bool:
        """Whether the distance between two tokens alone decides whether one attends to the other."""
        return not (self.sinks or self.prefix or self.global_positions)

    @property
    def is_window(self) -> bool:
        """Whether it is a symmetric window of half-width `left`, or unlimited."""
        return self.is_band and self.left == self.right

    def within(self, length: int) -> Reach:
        """The simplest reach that allows the same in documents of at most `length` tokens."""
        left = None if self.left is None or self.left >= length - 1 or self.sinks >= length else self.left
        right = None if self.right is None or self.right >= length - 1 or self.prefix >= length else self.right
        if left is None and right is None:
            return Reach()
        return Reach(
            left,
            right,
            0 if left is None else self.sinks,
            0 if right is None else self.prefix,
            tuple(position for position in self.global_positions if position < length),
        )

    def intersect(self, other: Reach) -> Reach:
        """The reach of tokens that are within both.

        Raises `SettingsError` if no reach says that: if one has global positions and the other a limit, or if both
        limit one side and one of them has sinks or a prefix there.
        """
        if self.is_unlimited or self == other:
            return other
        if other.is_unlimited:
            return self
        left, sinks = _narrower((self.left, self.sinks), (other.left, other.sinks))
        right, prefix = _narrower((self.right, self.prefix), (other.right, other.prefix))
        if self.global_positions or other.global_positions or sinks is None or prefix is None:
            raise SettingsError(
                f"The reach of the model's layers, {self}, cannot be combined with that of the batch, {other}: limits "
                "on the same side need equal sinks and prefix, and global positions need the other to have no limit. "
                "Set another model.mask."
            )
        return Reach(left, right, sinks, prefix)

    def mean_attended(self, length: float) -> float:
        """The number of tokens that a token attends to, on average over a document of `length` tokens.

        Tokens that are both within reach and a global position are counted twice. Zero for an empty document.
        """
        if length <= 0:
            return 0.0
        total = length + _limited(self.left, length) + _limited(self.right, length)
        if self.left is not None:
            total += _far_sinks(length - 1 - self.left, self.sinks)
        if self.right is not None:
            total += _triangle(self.prefix - 1 - self.right)
        band = total / length
        return min(band + 2 * len(self.global_positions) * (1 - band / length), length)

    def allows(self, query: Tensor, key: Tensor, prefix: Tensor | None = None) -> Tensor:
        """Whether queries attend to keys, from their positions in a document, which broadcast; bool.

        `prefix`: lengths of prefixes besides `self.prefix`, which broadcast with the positions.
        """
        distance = key - query
        allowed = torch.ones_like(distance, dtype=torch.bool)
        if self.left is not None:
            allowed = distance >= -self.left
            if self.sinks:
                allowed = allowed | (key < self.sinks)
        if self.right is not None:
            ahead = distance <= self.right
            if self.prefix:
                ahead = ahead | (key < self.prefix)
            if prefix is not None:
                ahead = ahead | (key < prefix)
            allowed = allowed & ahead
        for position in self.global_positions:
            allowed = allowed | (query == position) | (key == position)
        return allowed


def _triangle(n: float) -> float:
    """1 + 2 + … + n, and 0 for n <= 0."""
    return n * (n + 1) / 2 if n > 0 else 0.0


def _limited(limit: int | None, length: float) -> float:
    """The pairs of tokens, of `length` tokens, of which the second comes at most `limit` after the first."""
    if limit is None or limit >= length - 1:
        return _triangle(length - 1)
    return limit * length - _triangle(limit)


def _far_sinks(queries: float, sinks: int) -> float:
    """The pairs of a query and a sink that is beyond its limit on the left; `queries`: those that have a limit."""
    if queries <= sinks:
        return _triangle(queries)
    return _triangle(sinks) + sinks * (queries - sinks)


def _narrower(one: tuple[int | None, int], other: tuple[int | None, int]) -> tuple[int | None, int | None]:
    """The limit on one side and its exceptions, from two of them; None for exceptions that cannot be combined."""
    if one[0] is None:
        return other
    if other[0] is None or one == other:
        return one
    return min(one[0], other[0]), (0 if one[1] == other[1] == 0 else None)
