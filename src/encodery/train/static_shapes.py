"""Micro-batches of one fixed shape, so that a step is compiled once and never waits for the device.

A frame has `tokens` places, `documents` ends of sequences, `slots` rows to predict. Sequences are packed into it until
more than 99 % is text; the rest is [PAD] in sequences of its own, which no text sees, nothing hides and no loss counts.
Rows that a low masking rate leaves over carry the target that is ignored. So a step's loss and gradients are those of
its text alone, and every rank has the same number of tokens. Corruption runs on the device, before the graph.

Within the graph attention is `ops.attention.graph`; nothing reads the batch on the host. With `replayed` the kernels of
a micro-batch are recorded once and started together from then on (CUDA graphs, by `torch.compile`), which pays where
they are too small to outlast their launch. Then every result lies where the next micro-batch's will: what is to last is
copied. Not run on a GPU yet.
Shapes: T tokens, B sequences, M predicted rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.corrupt import IGNORE_INDEX
from encodery.model.network import Model
from encodery.model.shape import Batch, Layout
from encodery.objectives import LossTerm, Objective, ObjectiveModule
from encodery.tokens.loader import PackedBatch
from encodery.train.settings import TrainSettings

MIN_MEAN_LENGTH = 8  # tokens of a document on average, at least: what a frame's ends of sequences suffice for


@dataclass(frozen=True)
class StaticShape:
    """The shape of every micro-batch. `longest`: of a sequence; `pad`: the id of what is no text."""

    tokens: int
    sequences: int
    predictions: int
    max_seqlen: int
    pad_id: int

    @classmethod
    def of(cls, train: TrainSettings, objective: Objective, max_length: int, world: int, pad_id: int) -> StaticShape:
        """The frame of a run. Raises `SettingsError` where a micro-batch cannot have a fixed shape."""
        tokens = min(train.micro_batch_tokens, round(train.batch_tokens.maximum) // world)
        if tokens < max_length:
            raise SettingsError(
                f"train.static: a micro-batch of {tokens} tokens cannot hold a sequence of {max_length}: raise "
                "train.micro_batch_tokens and train.batch_tokens, or lower feed.max_length."
            )
        slots = objective.max_predictions(tokens)
        if slots is None:
            raise SettingsError(
                f"train.static = '{train.static}': the objective {name_of(objective)} has batches whose shape "
                "depends on what is hidden in them. Leave train.static off, or take objective.is=mlm."
            )
        documents = -(-tokens // MIN_MEAN_LENGTH) + -(-tokens // max_length)
        return cls(tokens, documents, slots, max_length, pad_id)

    @property
    def max_sequences(self) -> int:
        """How many sequences of text fit, with those for what is no text kept free."""
        return self.sequences - -(-self.tokens // self.max_seqlen)

    def num_micro_batches(self, batch_tokens: int, world: int) -> int:
        """How many frames a step of about so many tokens has over all ranks."""
        return max(1, round(batch_tokens / (self.tokens * world))) * world

    def pad_batch(self, packed: PackedBatch) -> PackedBatch:
        """The batch in a frame: ids (tokens,), cu_seqlens (documents + 1,)."""
        real, count = packed.tokens, len(packed.cu_seqlens)
        ids = np.full(self.tokens, self.pad_id, packed.ids.dtype)
        ids[:real] = packed.ids
        behind = np.arange(1, self.sequences + 2 - count) * self.max_seqlen + real
        ends = np.concatenate([packed.cu_seqlens, np.minimum(behind, self.tokens)])
        return PackedBatch(ids, ends.astype(np.int32), packed.global_tokens)

    def pad_predictions(self, batch: Batch) -> Batch:
        """A corrupted batch with `slots` rows; those that are spare are ignored."""
        rows, targets = batch.extra["masked_positions"], batch.extra["labels"]
        spare = self.predictions - rows.numel()
        if spare == 0:
            return batch
        return batch.with_ids(
            batch.ids, masked_positions=F.pad(rows, (0, spare)), labels=F.pad(targets, (0, spare), value=IGNORE_INDEX)
        )


class Compiled:
    """`Job.terms` of prepared batches of one frame, as one graph; `replayed` on a CUDA device only."""

    def __init__(
        self,
        model: Model,
        objective: ObjectiveModule,
        frame: StaticShape,
        replayed: bool = False,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.model, self.objective, self.frame, self.replayed = model, objective, frame, replayed
        mode = "reduce-overhead" if replayed else None
        self.step: Callable[..., Any] = torch.compile(
            self._step, fullgraph=True, dynamic=False, backend=backend, mode=mode
        )

    def __call__(self, batch: Batch) -> dict[str, LossTerm]:
        """See `Job.terms`."""
        extra = batch.extra
        totals, counts, weights = self.step(batch.ids, batch.cu_seqlens, extra["masked_positions"], extra["labels"])
        terms = {name: LossTerm(total, counts[name], weights[name]) for name, total in totals.items()}
        return {name: _copied(term) for name, term in terms.items()} if self.replayed else terms

    def _step(
        self, ids: Tensor, cu_seqlens: Tensor, rows: Tensor, targets: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, float]]:
        batch = Batch(ids, cu_seqlens, self.frame.max_seqlen, None, {"masked_positions": rows, "labels": targets})
        object.__setattr__(batch, "layout", Layout.precomputed(cu_seqlens, self.frame.max_seqlen, self.frame.tokens))
        terms = self.objective(self.model, batch)
        return (
            {name: term.total for name, term in terms.items()},
            {name: term.count for name, term in terms.items()},
            {name: term.weight for name, term in terms.items()},
        )


def _copied(term: LossTerm) -> LossTerm:
    count = term.count.clone() if isinstance(term.count, Tensor) else term.count
    return LossTerm(term.total.clone(), count, term.weight)


def copy_gradients(parameters: Iterable[Tensor]) -> None:
    """Move gradients out of where a replayed graph will write again; what follows is added to the copies."""
    for p in parameters:
        if p.grad is not None:
            p.grad = p.grad.clone()
