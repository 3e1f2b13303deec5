"""Jobs that learn from a fixed set of examples: labelled rows, pairs, triplets; an example is one or more sequences.

A step takes `batch` examples. They come from an endless row of epochs, each shuffled by a key of its own; a batch may
hold the end of one epoch and the beginning of the next, so every step has the same number of examples and every example
is seen equally often. The place in that row is the whole state of the data.

A step's examples are dealt to micro-batches of about equal tokens, at most `train.micro_batch_tokens` each, and these to the
ranks. Where an example's loss depends on the others of its step (`together`: in-batch negatives), each rank takes its
share as one micro-batch and compares within it. Shapes: E examples.
"""

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
    """Contract of such a job. A subclass calls `lay_out` once, in its constructor, and says how to collate examples.

    `lengths` (E,): tokens of each example, all its sequences and special tokens together.
    """

    in_batch: bool = False
    """Whether the loss of an example depends on the other examples of the step."""

    lengths: Integers
    train: TrainSettings
    distributed: DistributedContext
    batch_size: int

    def set_examples(
        self, lengths: npt.ArrayLike, batch_size: int, train: TrainSettings, distributed: DistributedContext
    ) -> None:
        """Set the examples' lengths (E,), how many a step takes, and the loop's settings.

        Raises `EmptyInput` without examples, `SettingsError` for a batch that the ranks cannot share.
        """
        self.lengths = np.asarray(lengths, np.int64)
        self.batch_size, self.train, self.distributed, self.position = batch_size, train, distributed, 0
        if not len(self.lengths):
            raise EmptyInput("There are no examples to learn from.")
        if batch_size < distributed.world:
            raise SettingsError(f"batch = {batch_size}: must be at least the number of processes, {distributed.world}.")

    @abc.abstractmethod
    def collate(self, indices: Integers, seed: int) -> Batch:
        """The examples of these numbers as a packed batch on the job's device, with the targets in `extra`.

        `seed` is for whatever is drawn at random in it; equal arguments give equal batches.
        """

    def flops(self, batch: Batch) -> float:
        """Floating-point operations of forward and backward of a batch; 0 where they are not counted."""
        return 0.0

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """See `Job`. A step is a number of examples here: `batch_tokens` and `length` are not asked for."""
        chosen = self._chosen(self.position, self.batch_size)
        self.position += self.batch_size
        parts = self._parts(int(self.lengths[chosen].sum()))
        ordered = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
        seats = balance(self.lengths[ordered], parts)
        micros = []
        for number in range(self.distributed.rank, parts, self.distributed.world):
            seed = derive_seed(self.train.seed, "examples", step, number)
            micros.append(MicroBatch(number, self.collate(ordered[seats == number], seed)))
        operations = sum(self.flops(micro.batch) for micro in micros) * self.distributed.world
        return StepBatches(micros, int(self.lengths[chosen].sum()), operations)

    def _parts(self, tokens: int) -> int:
        """How many micro-batches a step has over all ranks."""
        world = self.distributed.world
        if self.in_batch:
            return world
        parts = -(-tokens // self.train.micro_batch_tokens)
        return min(-(-parts // world) * world, self.batch_size // world * world)

    def _chosen(self, start: int, count: int) -> Integers:
        """The examples at `start` … `start + count - 1` of the endless row of epochs."""
        places = np.arange(start, start + count, dtype=np.int64)
        size = len(self.lengths)
        found = np.empty(count, np.int64)
        for epoch in np.unique(places // size).tolist():
            mine = places // size == epoch
            found[mine] = permute(places[mine] % size, size, derive_seed(self.train.seed, "epoch", epoch))
        return found

    @property
    def epoch_tokens(self) -> int:
        """Tokens of all examples."""
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
            raise CheckpointError(f"The run had {state['examples']} examples, here are {len(self.lengths)}.")
        self.position = int(state["position"])


def settings_for_epochs(lengths: npt.ArrayLike, batch_size: int, epochs: float) -> dict[str, Any]:
    """The `train` settings that stand for so many epochs: a budget in steps, and the tokens a step takes on average.

    Raises `SettingsError` for a number of epochs or a batch that is not positive, `EmptyInput` without examples.
    """
    sizes = np.asarray(lengths, np.int64)
    if not len(sizes):
        raise EmptyInput("There are no examples to learn from.")
    if not epochs > 0 or batch_size < 1:
        raise SettingsError(f"epochs = {epochs}, batch = {batch_size}: both must be positive.")
    steps = max(round(len(sizes) * epochs / batch_size), 1)
    return {"budget": f"{steps}steps", "batch_tokens": max(round(float(sizes.mean()) * batch_size), 1)}
