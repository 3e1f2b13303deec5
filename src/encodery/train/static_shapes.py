"""Micro-batches of one fixed shape, so that a step is compiled once and never waits for the device.

A micro-batch has `tokens` tokens, `sequences` sequence ends and `predictions` predicted positions. Sequences are packed
into it until more than 99 % of it is text; the rest is [PAD] in separate sequences, which no text attends to, which
are never masked and which no loss counts. Predictions that a low mask rate leaves unused get the label that is ignored.
So the loss and the gradient of a step are those of its text alone, and every rank has the same number of tokens.
Corruption runs on the device, before the compiled graph. Not run on a GPU yet. Shapes: T tokens, B sequences, M
predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.corrupt import IGNORE_INDEX
from encodery.model.shape import Batch
from encodery.objectives import Objective
from encodery.tokens.loader import PackedBatch
from encodery.train.settings import TrainSettings

MIN_MEAN_LENGTH = 8  # tokens of a sequence on average: `sequences` suffice for texts of at least this mean length


@dataclass(frozen=True)
class StaticShape:
    """The shape of every micro-batch. `max_seqlen`: tokens of the longest sequence; `pad_id`: the id of [PAD]."""

    tokens: int
    sequences: int
    predictions: int
    max_seqlen: int
    pad_id: int

    @classmethod
    def of(cls, train: TrainSettings, objective: Objective, max_length: int, world: int, pad_id: int) -> StaticShape:
        """The shape for a run on `world` processes. Raises `SettingsError` if a micro-batch cannot have a fixed
        shape."""
        tokens = min(train.micro_batch_tokens, round(train.batch_tokens.maximum) // world)
        if tokens < max_length:
            raise SettingsError(
                f"train.static_shapes: a micro-batch of {tokens} tokens cannot hold a sequence of {max_length}: raise "
                "train.micro_batch_tokens and train.batch_tokens, or lower feed.max_length."
            )
        predictions = objective.max_predictions(tokens)
        if predictions is None:
            raise SettingsError(
                f"train.static_shapes: the objective '{name_of(objective)}' has batches whose shape depends on what is "
                "in them. Use mlm, or turn train.static_shapes, train.compile and train.cuda_graphs off."
            )
        sequences = -(-tokens // MIN_MEAN_LENGTH) + -(-tokens // max_length)
        return cls(tokens, sequences, predictions, max_length, pad_id)

    @property
    def max_sequences(self) -> int:
        """How many sequences of text fit, apart from those that are kept free for padding."""
        return self.sequences - -(-self.tokens // self.max_seqlen)

    def num_micro_batches(self, batch_tokens: int, world: int) -> int:
        """The number of micro-batches, over all ranks, of a step of about `batch_tokens` tokens."""
        return max(1, round(batch_tokens / (self.tokens * world))) * world

    def pad_batch(self, packed: PackedBatch) -> PackedBatch:
        """The batch padded to this shape: ids (tokens,), cu_seqlens (sequences + 1,)."""
        text_tokens, ends_of_text = packed.tokens, len(packed.cu_seqlens)
        ids = np.full(self.tokens, self.pad_id, packed.ids.dtype)
        ids[:text_tokens] = packed.ids
        ends_of_padding = np.arange(1, self.sequences + 2 - ends_of_text) * self.max_seqlen + text_tokens
        cu_seqlens = np.concatenate([packed.cu_seqlens, np.minimum(ends_of_padding, self.tokens)])
        return PackedBatch(ids, cu_seqlens.astype(np.int32), packed.global_tokens)

    def pad_predictions(self, batch: Batch) -> Batch:
        """A corrupted batch with exactly `predictions` masked positions; the labels of the added ones are ignored."""
        masked_positions, labels = batch.extra["masked_positions"], batch.extra["labels"]
        missing = self.predictions - masked_positions.numel()
        if missing == 0:
            return batch
        return batch.with_ids(
            batch.ids,
            masked_positions=F.pad(masked_positions, (0, missing)),
            labels=F.pad(labels, (0, missing), value=IGNORE_INDEX),
        )
