"""The data types of the model: sizes (`Shape`), the packed batch (`Batch`, `Layout`) and the output (`Output`).

Shapes: T real tokens of the batch, B sequences, H width, E embedding size, V vocabulary. There is no padding anywhere.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.model.auxiliary import AuxiliaryTerm
from encodery.model.reach import Reach

UNLIMITED = Reach()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes that a part's `build` gets; `layer` and `reach` are set for a part that belongs to one layer.

    `reach` says which tokens of its document a token attends to in that layer.
    `reads_memory`: whether the layer has a cross-attention, as the layers of a decoder have.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    head_size: int
    intermediate_size: int
    max_length: int
    type_vocab_size: int
    embedding_size: int
    layer: int | None = None
    reach: Reach = UNLIMITED
    reads_memory: bool = False

    def for_layer(
        self, layer: int, reach: Reach, heads: int | None = None, intermediate_size: int | None = None
    ) -> Shape:
        """The shape of one layer; sizes that are not None replace those of the model."""
        return dataclasses.replace(
            self,
            layer=layer,
            reach=reach,
            heads=self.heads if heads is None else heads,
            intermediate_size=self.intermediate_size if intermediate_size is None else intermediate_size,
        )


class EqualLengthRun(NamedTuple):
    """Consecutive sequences of equal length: tokens `start : start + sequences * length` of the batch."""

    start: int
    sequences: int
    length: int


class Layout:
    """Where sequences lie in a packed batch. Everything is computed on first use and shared by all layers.

    `memo` holds what parts derive from the layout once per batch (rotary angles, dense biases).

    Args:
        cu_seqlens: Cumulative lengths of the sequences (B+1,), from 0 to T.
        max_seqlen: The length of the longest sequence, or more.
        tokens: T.
        text_positions: Position of each token in its text (T,), if some tokens of the texts are left out; all are below
            `max_seqlen`.
        reach: The reach of attention in this batch, which narrows that of every layer.
        prefix: See `Batch.prefix`.
    """

    def __init__(
        self,
        cu_seqlens: Tensor,
        max_seqlen: int,
        tokens: int,
        text_positions: Tensor | None = None,
        reach: Reach = UNLIMITED,
        prefix: Tensor | None = None,
    ) -> None:
        self.cu_seqlens = cu_seqlens
        self.max_seqlen = max_seqlen
        self.tokens = tokens
        self.reach = reach
        self.prefix = prefix
        self.has_gaps = text_positions is not None
        self.memo: dict[Any, Any] = {}
        if text_positions is not None:
            self.__dict__["text_positions"] = text_positions

    @classmethod
    def precomputed(
        cls, cu_seqlens: Tensor, max_seqlen: int, tokens: int, reach: Reach = UNLIMITED, prefix: Tensor | None = None
    ) -> Layout:
        """A layout whose properties are computed already, for a compiled graph; sequences may be empty.

        The compiler cannot trace the lock of `cached_property`.
        """
        layout = cls(cu_seqlens, max_seqlen, tokens, reach=reach, prefix=prefix)
        indices = torch.arange(tokens, device=cu_seqlens.device)
        layout.sequence_ids = torch.searchsorted(cu_seqlens.long(), indices, right=True) - 1
        layout.positions = indices - cu_seqlens.long()[layout.sequence_ids]
        layout.text_positions = layout.positions
        return layout

    def reach_of(self, layer: Reach) -> Reach:
        """The reach of a layer in this batch. Raises `SettingsError` if the two cannot be combined."""
        return layer.intersect(self.reach).within(self.max_seqlen)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Length of each sequence, on the host (B)."""
        ends: list[int] = self.cu_seqlens.tolist()
        return tuple(end - start for start, end in itertools.pairwise(ends))

    @cached_property
    def sequence_ids(self) -> Tensor:
        """Index of the sequence of each token (T,) int64."""
        cu = self.cu_seqlens.long()
        index = torch.arange(cu.numel() - 1, device=cu.device)
        return index.repeat_interleave(cu.diff(), output_size=self.tokens)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each token in its sequence, from 0 (T,) int64."""
        starts = self.cu_seqlens.long()[self.sequence_ids]
        return torch.arange(self.tokens, device=starts.device) - starts

    @cached_property
    def text_positions(self) -> Tensor:
        """Position of each token in its text (T,) int64: `positions`, unless tokens are left out."""
        return self.positions

    @cached_property
    def groups(self) -> tuple[EqualLengthRun, ...]:
        """Consecutive sequences of equal length; few runs if the batch is sorted by length."""
        runs: list[EqualLengthRun] = []
        start = 0
        for length in self.lengths:
            if runs and runs[-1].length == length:
                runs[-1] = runs[-1]._replace(sequences=runs[-1].sequences + 1)
            elif length:
                runs.append(EqualLengthRun(start, 1, length))
            start += length
        return tuple(runs)


@dataclass(frozen=True, eq=False)
class Batch:
    """A packed batch: `ids` (T,) int64, `cu_seqlens` (B+1,) int32 from 0 to T, `segment` (T,) int64 or None.

    `extra` carries tensors that an objective or a task adds (masked positions, labels). `memory` is a second batch of
    as many sequences, for an encoder–decoder: the decoder reads the encoder's output for sequence i in sequence i.

    `reach` narrows the reach of every layer for this batch: `Reach(right=0)` makes its attention causal. `prefix` (B,)
    int64, on the device of `ids`: that many first tokens of each sequence stay within reach of the tokens before them
    where attention is limited on the right, so causal and bidirectional sequences can share a batch. None: of none.
    """

    ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    segment: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    reach: Reach = UNLIMITED
    prefix: Tensor | None = None
    memory: Batch | None = None

    @cached_property
    def layout(self) -> Layout:
        """Where the sequences lie; shared with the copies that `with_ids` makes."""
        return Layout(self.cu_seqlens, self.max_seqlen, self.ids.numel(), reach=self.reach, prefix=self.prefix)

    def __len__(self) -> int:
        """The number of sequences B."""
        return self.cu_seqlens.numel() - 1

    @property
    def tokens(self) -> int:
        """The number of tokens T."""
        return self.ids.numel()

    @staticmethod
    def from_sequences(
        sequences: Sequence[Sequence[int]],
        segments: Sequence[Sequence[int]] | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Pack lists of ids, in their order. Raises `InputError` if there is no sequence, or an empty one."""
        lengths = [len(s) for s in sequences]
        if not lengths or min(lengths) == 0:
            raise InputError("A batch needs at least one sequence, and every sequence at least one token.")
        if segments is not None and [len(s) for s in segments] != lengths:
            raise InputError("The segments must have the same lengths as the sequences.")
        cu = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        ids = torch.tensor([i for s in sequences for i in s], dtype=torch.int64)
        segment = None if segments is None else torch.tensor([i for s in segments for i in s])
        batch = Batch(ids, cu, max(lengths), segment)
        return batch if torch.device(device).type == "cpu" else batch.to(device)

    def with_ids(self, ids: Tensor, **extra: Tensor) -> Batch:
        """The same sequences with other ids (T,) and further `extra` tensors; the layout is shared."""
        batch = dataclasses.replace(self, ids=ids, extra={**self.extra, **extra})
        batch.__dict__["layout"] = self.layout
        return batch

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)

        segment = None if self.segment is None else move(self.segment)
        extra = {key: move(value) for key, value in self.extra.items()}
        prefix = None if self.prefix is None else move(self.prefix)
        memory = None if self.memory is None else self.memory.to(device, non_blocking)
        return Batch(move(self.ids), move(self.cu_seqlens), self.max_seqlen, segment, extra, self.reach, prefix, memory)


@dataclass(frozen=True, eq=False)
class Output:
    """`hidden` (T, H) after the final norm; `layers`: outputs of the embeddings and of each block, depth + 1 of (T, H).

    `mlm_logits` maps hidden states of selected positions (M, H) to logits over the vocabulary (M, V) with the model's
    masked-language-model head; None if the model has no such head, or if this is the output of an encoder alone.
    `auxiliary`: terms that the encoder's sublayers add to the loss, each a sum over layers; empty outside training.
    """

    hidden: Tensor
    layers: tuple[Tensor, ...] | None = None
    mlm_logits: Callable[[Tensor], Tensor] | None = None
    auxiliary: Mapping[str, AuxiliaryTerm] = field(default_factory=dict)
