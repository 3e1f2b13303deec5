"""Training examples in memory: packed ids with their targets, in a few arrays for any number of rows.

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
    """`ids` (T,); sequence s ends at `sequence_ends[s]`. `segment` (T,) or None. Example e ends before sequence
    `example_ends[e]` and belongs to row `row[e]`; rows are in order. `dropped_tokens` (R,): tokens of each row that
    were cut off. `targets`: name → (E, ...). `token_marks`: name → (T, ...), what a task stores for each token.
    """

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
        """(E+1,) where the tokens of each example start and end."""
        return np.concatenate([[0], np.concatenate([[0], self.sequence_ends])[self.example_ends]]).astype(np.int64)

    @cached_property
    def num_sequences(self) -> np.ndarray:
        """(E,) number of sequences of each example."""
        return np.diff(self.example_ends, prepend=0)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) number of tokens of each example."""
        return np.diff(self.bounds)

    @cached_property
    def row_lengths(self) -> np.ndarray:
        """(R,) number of tokens of all examples of each row."""
        return np.bincount(self.row, weights=self.lengths, minlength=self.num_rows)

    def token_mark(self, name: str, index: int) -> np.ndarray:
        """Return what is stored under `name` for each token of one example."""
        return self.token_marks[name][self.bounds[index] : self.bounds[index + 1]]

    def of_rows(self, rows: np.ndarray) -> Examples:
        """Return the examples of these rows (R',), which are in rising order; they are numbered 0 … R' - 1 there."""
        chosen = np.flatnonzero(np.isin(self.row, rows))
        tokens, sequences = self._tokens_of(chosen), self._sequences_of(chosen)
        return Examples(
            self.ids[tokens],
            np.cumsum(self._sequence_lengths[sequences], dtype=np.int64),
            None if self.segment is None else self.segment[tokens],
            np.cumsum(self.num_sequences[chosen], dtype=np.int64),
            np.searchsorted(rows, self.row[chosen]),
            self.dropped_tokens[rows],
            {name: values[chosen] for name, values in self.targets.items()},
            {name: values[tokens] for name, values in self.token_marks.items()},
        )

    def batch(self, indices: np.ndarray) -> Batch:
        """Return these examples (B,), in this order. Extra: targets, token marks, `sizes` (B,) sequences of each."""
        tokens = self._tokens_of(indices)
        lengths = self._sequence_lengths[self._sequences_of(indices)]
        cu_seqlens = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        extra = {name: torch.from_numpy(values[indices]) for name, values in self.targets.items()}
        extra |= {name: torch.from_numpy(values[tokens]) for name, values in self.token_marks.items()}
        extra["sizes"] = torch.from_numpy(self.num_sequences[indices])
        segment = None if self.segment is None else torch.from_numpy(self.segment[tokens].astype(np.int64))
        ids = torch.from_numpy(self.ids[tokens].astype(np.int64))
        return Batch(ids, torch.from_numpy(cu_seqlens), int(lengths.max()), segment, extra)

    @cached_property
    def _sequence_lengths(self) -> np.ndarray:
        """(S,) number of tokens of each sequence."""
        return np.diff(self.sequence_ends, prepend=0)

    def _tokens_of(self, indices: np.ndarray) -> np.ndarray:
        """Where the tokens of these examples are."""
        return _ranges(self.bounds[indices], self.bounds[indices + 1])

    def _sequences_of(self, indices: np.ndarray) -> np.ndarray:
        """Where the sequences of these examples are."""
        return _ranges(self.example_ends[indices] - self.num_sequences[indices], self.example_ends[indices])


class ExampleBuilder:
    """Collects examples one by one; `uses_segments`: whether they get segment ids."""

    def __init__(self, uses_segments: bool) -> None:
        self.uses_segments = uses_segments
        self.sequences: list[InputSequence] = []
        self.example_ends: list[int] = []
        self.rows: list[int] = []
        self.targets: dict[str, list[Any]] = {}
        self.token_marks: dict[str, list[np.ndarray]] = {}

    def add(
        self,
        row: int,
        sequences: Sequence[InputSequence],
        targets: Mapping[str, Any] | None = None,
        token_marks: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add an example of some sequences. Every example must have the same names of targets and token marks."""
        self.sequences += sequences
        self.example_ends.append(len(self.sequences))
        self.rows.append(row)
        for name, value in (targets or {}).items():
            self.targets.setdefault(name, []).append(value)
        for name, values in (token_marks or {}).items():
            self.token_marks.setdefault(name, []).append(values)

    def build(self, dropped_tokens: Sequence[int]) -> Examples:
        """Return all examples; `dropped_tokens` (R,) of each row."""
        lengths = [len(sequence.ids) for sequence in self.sequences]
        ids = np.concatenate([sequence.ids for sequence in self.sequences]) if self.sequences else np.zeros(0)
        segment = None
        if self.uses_segments:
            second = [np.arange(len(sequence.ids)) >= sequence.second_start for sequence in self.sequences]
            segment = np.concatenate(second) if second else ids
        return Examples(
            ids.astype(np.uint32),
            np.cumsum(lengths, dtype=np.int64),
            None if segment is None else segment.astype(np.uint8),
            np.asarray(self.example_ends, np.int64),
            np.asarray(self.rows, np.int64),
            np.asarray(dropped_tokens, np.int64),
            {name: np.asarray(values) for name, values in self.targets.items()},
            {name: np.concatenate(values) for name, values in self.token_marks.items()},
        )


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return start … end - 1 of each pair, one after the other."""
    lengths = ends - starts
    offsets = np.cumsum(lengths) - lengths
    indices: np.ndarray = np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
    return indices
