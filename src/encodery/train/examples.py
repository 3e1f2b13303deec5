"""Jobs that train on a fixed set of examples: labelled rows, pairs, triplets. An example is one or more sequences.

A step takes `batch_size` examples from an endless series of epochs, each shuffled under another key. A batch may
hold the end of one epoch and the start of the next, so every step has the same number of examples and every example is
seen equally often. The position in that series is the whole state of the data.

The examples of a step are balanced over micro-batches of about equal tokens, at most `train.micro_batch_tokens` each,
and these over the ranks. If the loss of an example depends on the others of its step (`in_batch`: in-batch negatives),
each rank takes its part as one micro-batch and compares within it. Shapes: E examples."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from encodery.base.errors import CheckpointError, EmptyInput, SettingsError
from encodery.base.machine import derive_seed
from encodery.model.shape import Batch
from encodery.tokens.fit import balance
from encodery.tokens.shuffle import Integers, permute
from encodery.train.distributed import DistributedContext
from encodery.train.job import Job, MicroBatch, StepBatches
from encodery.train.settings import TrainSettings


class ExampleJob(Job):
    """Contract of such a job. A subclass calls `set_examples` once, in its constructor, and collates examples.

    `lengths` (E,): tokens of each example, all its sequences and special tokens together. `in_batch`: whether the loss
    of an example depends on the other examples of the step; the subclass sets it for its loss."""

    in_batch: bool = False
    lengths: Integers
    train: TrainSettings
    distributed: DistributedContext
    batch_size: int

    def set_examples(
        self, lengths: npt.ArrayLike, batch_size: int, train: TrainSettings, distributed: DistributedContext
    ) -> None:
        """Set the lengths (E,) of the examples, the number of examples of a step, and the settings of the loop.

        Raises `EmptyInput` without examples, `SettingsError` for a batch that is smaller than the number of ranks.
        """
        self.lengths = np.asarray(lengths, np.int64)
        self.batch_size, self.train, self.distributed, self.position = batch_size, train, distributed, 0
        if not len(self.lengths):
            raise EmptyInput("There are no examples to train on.")
        if batch_size < distributed.world:
            raise SettingsError(f"batch = {batch_size}: must be at least the number of processes, {distributed.world}.")

    @abc.abstractmethod
    def collate(self, indices: Integers, seed: int) -> Batch:
        """The examples of these indices as a packed batch on the device of the job, with the labels in `extra`.

        `seed` is for whatever is drawn at random; equal arguments give equal batches.
        """

    def flops(self, batch: Batch) -> float:
        """Floating-point operations of the forward and backward pass of a batch; 0 if they are not counted."""
        return 0.0

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """See `Job`. A step is a number of examples here; `batch_tokens` and `max_length` are not used."""
        chosen = self._next_examples(self.position, self.batch_size)
        self.position += self.batch_size
        tokens = int(self.lengths[chosen].sum())
        number = self._num_micro_batches(tokens)
        ordered = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
        micro_batch_ids = balance(self.lengths[ordered], number)
        micro_batches = []
        for index in range(self.distributed.rank, number, self.distributed.world):
            seed = derive_seed(self.train.seed, "examples", step, index)
            micro_batches.append(MicroBatch(index, self.collate(ordered[micro_batch_ids == index], seed)))
        flops = sum(self.flops(micro.batch) for micro in micro_batches) * self.distributed.world
        return StepBatches(micro_batches, tokens, flops)

    def _num_micro_batches(self, tokens: int) -> int:
        """The number of micro-batches of a step over all ranks."""
        world = self.distributed.world
        if self.in_batch:
            return world
        number = -(-tokens // self.train.micro_batch_tokens)
        return min(-(-number // world) * world, self.batch_size // world * world)

    def _next_examples(self, start: int, count: int) -> Integers:
        """The examples at `start` … `start + count - 1` of the endless series of epochs."""
        positions = np.arange(start, start + count, dtype=np.int64)
        size = len(self.lengths)
        examples = np.empty(count, np.int64)
        for epoch in np.unique(positions // size).tolist():
            inside = positions // size == epoch
            examples[inside] = permute(positions[inside] % size, size, derive_seed(self.train.seed, "epoch", epoch))
        return examples

    @property
    def epoch_tokens(self) -> int:
        """Number of tokens in all examples."""
        return int(self.lengths.sum())

    def metrics(self) -> dict[str, float]:
        """`epoch`, with its fraction."""
        return {"epoch": self.position / len(self.lengths)}

    def state(self) -> dict[str, Any]:
        """See `Job`."""
        return {"position": self.position, "examples": len(self.lengths)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `Job`."""
        if state["examples"] != len(self.lengths):
            raise CheckpointError(
                f"The run was made with {state['examples']} examples; the data has {len(self.lengths)} now."
            )
        self.position = int(state["position"])
