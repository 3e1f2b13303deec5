"""Token sequences of labelled rows, ready to be packed: one row gives one example or, cut into windows, several.

An example is what a step of training takes: mostly one sequence, for multiple choice one a candidate. Everything lies
in flat arrays, so that a hundred thousand rows are no hundred thousand objects. Special tokens are included.
Shapes: R rows, E examples, S sequences, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from encodery.base.errors import InputError
from encodery.model.shape import Batch
from encodery.tokens.shuffle import Integers
from encodery.tokens.tokenizer import Tokenizer
from encodery.tokens.windows import Truncate, windows

NOWHERE = -1


@dataclass(frozen=True, eq=False)
class Pieces:
    """`ids` (N,) and `segment` (N,) int8; `starts` (S+1,) where sequences begin; `first` (E+1,) the sequences of each
    example; `row` (E,) the row it is of; `dropped` (R,) tokens left out of each row.

    `places` (N, 2) int32: what a token stands for, in the task's own terms; NOWHERE where it stands for nothing.
    `target`: of each example (E, ...) or of each token (N,), as the task's loss wants it; None where it is to be found.
    """

    ids: np.ndarray
    segment: np.ndarray
    starts: Integers
    first: Integers
    row: Integers
    dropped: Integers
    places: np.ndarray | None = None
    target: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def rows(self) -> int:
        """How many rows they are of."""
        return len(self.dropped)

    @property
    def lengths(self) -> Integers:
        """(E,) tokens of each example."""
        found: Integers = self.starts[self.first[1:]] - self.starts[self.first[:-1]]
        return found

    def sequences(self, numbers: Integers) -> Integers:
        """The numbers of all sequences of these examples, in order."""
        counts = self.first[numbers + 1] - self.first[numbers]
        return _runs(self.first[numbers], counts)

    def tokens(self, numbers: Integers) -> Integers:
        """The places in `ids` of all tokens of these examples, in order."""
        begins = self.starts[self.first[numbers]]
        return _runs(begins, self.starts[self.first[numbers + 1]] - begins)

    def batch(self, numbers: Integers, segments: bool) -> Batch:
        """These examples as a packed batch on the CPU, sequences in order. `segments`: whether the model tells them."""
        lengths = np.diff(self.starts)[self.sequences(numbers)]
        tokens = self.tokens(numbers)
        cu_seqlens = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        segment = torch.from_numpy(self.segment[tokens].astype(np.int64)) if segments else None
        ids = torch.from_numpy(self.ids[tokens].astype(np.int64))
        return Batch(ids, torch.from_numpy(cu_seqlens), int(lengths.max()), segment)

    def with_target(self, target: np.ndarray) -> Pieces:
        """The same with a target."""
        return replace(self, target=target)


@dataclass(frozen=True, eq=False)
class Sequence1:
    """A token sequence in the making: its `ids` and `segment` (n,) with specials, what its tokens stand for (n, 2)."""

    ids: np.ndarray
    segment: np.ndarray
    places: np.ndarray | None = None


def pieces(sequences: Sequence[Sequence1], example: Sequence[int], row: Sequence[int], dropped: np.ndarray) -> Pieces:
    """Flat arrays of sequences, each of the `example` (S,) it belongs to, in order; `row` (E,) of each example."""
    lengths = np.array([len(one.ids) for one in sequences], np.int64)
    first = np.concatenate([[0], np.bincount(np.asarray(example, np.int64), minlength=len(row)).cumsum()])
    placed = sequences[0].places is not None if sequences else False
    return Pieces(
        ids=_joined([one.ids for one in sequences]).astype(np.int32),
        segment=_joined([one.segment for one in sequences]).astype(np.int8),
        starts=np.concatenate([[0], lengths.cumsum()]).astype(np.int64),
        first=first.astype(np.int64),
        row=np.asarray(row, np.int64),
        dropped=np.asarray(dropped, np.int64),
        places=np.concatenate([one.places for one in sequences if one.places is not None]) if placed else None,
    )


def single(texts: Sequence[str], tokenizer: Tokenizer, longest: int, truncate: Truncate) -> Pieces:
    """One text a row: [CLS] text [SEP], at most `longest` tokens in all; windows under "chunk".

    Raises `InputError` naming the first row that is too long under "error".
    """
    found, dropped = windows(tokenizer.encode_batch(list(texts)), longest - 2, truncate)
    edges = [tokenizer.cls_id], [tokenizer.sep_id]
    made = []
    for window in found:
        ids = np.concatenate([edges[0], window.ids, edges[1]])
        made.append(Sequence1(ids, np.zeros(len(ids), np.int8)))
    return pieces(made, range(len(made)), [window.text for window in found], dropped)


def double(left: Sequence[str], right: Sequence[str], tokenizer: Tokenizer, longest: int, truncate: Truncate) -> Pieces:
    """Two texts a row: [CLS] left [SEP] right [SEP]. What is too long is taken from the longer of the two, token by
    token; under "chunk" the second text is cut into windows, each beside the whole first one.

    Raises `InputError` naming the first row that is too long under "error", or whose first text leaves no room.
    """
    made: list[Sequence1] = []
    row: list[int] = []
    dropped = np.zeros(len(left), np.int64)
    pairs = zip(tokenizer.encode_batch(list(left)), tokenizer.encode_batch(list(right)), strict=True)
    for number, (a, b) in enumerate(pairs):
        room = longest - 3
        for first, second in fitted(a, b, room, truncate, number):
            dropped[number] += len(a) + len(b) - len(first) - len(second) if truncate in ("left", "right") else 0
            made.append(joined(first, second, tokenizer))
            row.append(number)
    return pieces(made, range(len(made)), row, dropped)


def joined(first: np.ndarray, second: np.ndarray, tokenizer: Tokenizer) -> Sequence1:
    """[CLS] first [SEP] second [SEP] in segments 0 and 1; `places` tells the token of the second text, (n, 2)."""
    edge = [tokenizer.sep_id]
    ids = np.concatenate([[tokenizer.cls_id], first, edge, second, edge])
    segment = np.concatenate([np.zeros(len(first) + 2, np.int8), np.ones(len(second) + 1, np.int8)])
    return Sequence1(ids, segment)


def fitted(
    a: np.ndarray, b: np.ndarray, room: int, truncate: Truncate, number: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs of tokens, at most `room` together, that a row's two texts become."""
    if len(a) + len(b) <= room:
        return [(a, b)]
    if truncate == "error":
        raise InputError(
            f"Row {number} has {len(a)} + {len(b)} tokens, the model takes {room} (and its special tokens). "
            "Choose truncate = right, left or chunk."
        )
    if truncate == "chunk":
        if len(a) > room - 1:
            raise InputError(
                f"Row {number}: its first text has {len(a)} tokens and leaves no room for the second among {room}. "
                "Choose truncate = right or left."
            )
        return [(a, part) for part in np.array_split(b, -(-len(b) // (room - len(a))))]
    keep_a, keep_b = _shares(len(a), len(b), room)
    if truncate == "right":
        return [(a[:keep_a], b[:keep_b])]
    return [(a[len(a) - keep_a :], b[len(b) - keep_b :])]


def _shares(a: int, b: int, room: int) -> tuple[int, int]:
    """How many of `a` and `b` tokens stay among `room` when the longer one gives first."""
    shorter = min(a, b, room // 2)
    return (shorter, room - shorter) if a <= b else (room - shorter, shorter)


def by_row(values: np.ndarray, found: Pieces) -> np.ndarray:
    """Values (E, C) of examples to values (R, C) of rows: means over a row's windows, weighted by their tokens."""
    weights = found.lengths.astype(np.float64)
    total = np.bincount(found.row, weights=weights, minlength=found.rows)
    summed = np.zeros((found.rows, *values.shape[1:]))
    np.add.at(summed, found.row, values * weights.reshape(-1, *[1] * (values.ndim - 1)))
    return summed / total.reshape(-1, *[1] * (values.ndim - 1))


def _joined(parts: Sequence[Any]) -> np.ndarray:
    return np.concatenate(parts) if len(parts) else np.zeros(0, np.int64)


def _runs(begins: Integers, counts: Integers) -> Integers:
    """begins[0], begins[0] + 1, ... `counts[0]` of them, then those of begins[1], and so on."""
    total = int(counts.sum())
    offsets = np.repeat(begins - np.concatenate([[0], counts.cumsum()[:-1]]), counts)
    return offsets + np.arange(total, dtype=np.int64)
