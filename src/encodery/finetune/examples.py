"""Training examples in memory: packed ids with their targets, a few arrays for any number of rows.

An example is what a task judges at once: one sequence, a window of a long text, or all candidates of a choice.
Shapes: R rows, E examples, S sequences, T tokens of them all, B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from encodery.finetune.preprocess import InputSequence
from encodery.model.shape import Batch


@dataclass(frozen=True, eq=False)
class Examples:
    """`ids` (T,), sequence s ending at `ends[s]`; `segment` (T,) or None; example e ends before sequence `last[e]` and
    is of row `row[e]`, rows in order. `targets`: name -> (E, ...); `marks`: name -> (T, ...), what a task knows of each
    token. `dropped` (R,): tokens of each row that were cut off."""

    ids: np.ndarray
    sequence_ends: np.ndarray
    segment: np.ndarray | None
    example_ends: np.ndarray
    row: np.ndarray
    dropped_tokens: np.ndarray
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)
    token_marks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.example_ends)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.dropped_tokens)

    @cached_property
    def bounds(self) -> np.ndarray:
        """(E+1,) where the tokens of each example begin and end."""
        return np.concatenate([[0], np.concatenate([[0], self.sequence_ends])[self.example_ends]]).astype(np.int64)

    @cached_property
    def num_sequences(self) -> np.ndarray:
        """(E,) sequences of each example."""
        return np.diff(self.example_ends, prepend=0)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) tokens of each example."""
        return np.diff(self.bounds)

    def token_mark(self, name: str, index: int) -> np.ndarray:
        """What is known of each token of one example."""
        return self.token_marks[name][self.bounds[index] : self.bounds[index + 1]]

    def batch(self, indices: np.ndarray) -> Batch:
        """These examples (B,), in this order. Extra: targets, marks, and `sizes` (B,) sequences of each."""
        tokens = _ranges(self.bounds[indices], self.bounds[indices + 1])
        sequences = _ranges(self.example_ends[indices] - self.num_sequences[indices], self.example_ends[indices])
        lengths = np.diff(self.sequence_ends, prepend=0)[sequences]
        cu_seqlens = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        extra = {name: torch.from_numpy(values[indices]) for name, values in self.targets.items()}
        extra |= {name: torch.from_numpy(values[tokens]) for name, values in self.token_marks.items()}
        extra["sizes"] = torch.from_numpy(self.num_sequences[indices])
        segment = None if self.segment is None else torch.from_numpy(self.segment[tokens].astype(np.int64))
        ids = torch.from_numpy(self.ids[tokens].astype(np.int64))
        return Batch(ids, torch.from_numpy(cu_seqlens), int(lengths.max()), segment, extra)


class ExampleBuilder:
    """Examples in the making."""

    def __init__(self, uses_segments: bool) -> None:
        self.uses_segments = uses_segments
        self.sequences: list[InputSequence] = []
        self.last: list[int] = []
        self.row: list[int] = []
        self.targets: dict[str, list[Any]] = {}
        self.marks: dict[str, list[np.ndarray]] = {}

    def add(
        self,
        row: int,
        sequences: Sequence[InputSequence],
        targets: Mapping[str, Any] | None = None,
        marks: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """An example of some sequences; every example has the same names of targets and marks."""
        self.sequences += sequences
        self.last.append(len(self.sequences))
        self.row.append(row)
        for name, value in (targets or {}).items():
            self.targets.setdefault(name, []).append(value)
        for name, values in (marks or {}).items():
            self.marks.setdefault(name, []).append(values)

    def build(self, dropped_tokens: Sequence[int]) -> Examples:
        """All of them; `dropped` (R,) tokens of each row."""
        lengths = [len(piece.ids) for piece in self.sequences]
        ids = np.concatenate([piece.ids for piece in self.sequences]) if self.sequences else np.zeros(0)
        segment = None
        if self.uses_segments:
            behind = [np.arange(len(piece.ids)) >= piece.second_start for piece in self.sequences]
            segment = np.concatenate(behind) if behind else ids
        return Examples(
            ids.astype(np.uint32),
            np.cumsum(lengths, dtype=np.int64),
            None if segment is None else segment.astype(np.uint8),
            np.asarray(self.last, np.int64),
            np.asarray(self.row, np.int64),
            np.asarray(dropped_tokens, np.int64),
            {name: np.asarray(values) for name, values in self.targets.items()},
            {name: np.concatenate(values) for name, values in self.marks.items()},
        )


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """start … end - 1 of each pair, one after the other."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    found: np.ndarray = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return found
