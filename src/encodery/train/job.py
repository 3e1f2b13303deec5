"""A job: everything the loop must know of what is learned. Pre-training is one; the loop knows no model.

The loop asks for a step's micro-batches, for the terms of each, and goes backward itself. The loss of a step is
Σ weight · Σ total / Σ count over all micro-batches and ranks (`encodery.objectives`). A job draws all its randomness
from `derive_seed(seed, what, step, number of the micro-batch)`, never from a stream: so a resumed run sees the same
masks, and one process the same as two. The state of a job is where its data stands.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from encodery.objectives import Count, LossTerm
from encodery.train.distributed import DistributedContext
from encodery.train.expected_loss import LossRange
from encodery.train.layered import LayerwiseOffload
from encodery.train.memory_estimate import MemoryEstimate


@dataclass(frozen=True)
class MicroBatch:
    """A prepared micro-batch on its device. `number` counts over all ranks, so that seeds do not depend on theirs."""

    index: int
    batch: Any


@dataclass(frozen=True)
class StepBatches:
    """A step: this rank's micro-batches, the tokens and the floating-point operations of all ranks together."""

    micro_batches: Sequence[MicroBatch]
    tokens: int
    flops: float = 0.0


class Job(abc.ABC):
    """Contract of what the loop runs. All ranks hold equal jobs and call the same methods in the same order."""

    module: nn.Module
    """All that is trained, on its device; the names of its parameters are those in checkpoints."""

    supports_fsdp: bool = False
    """Whether the model runs in `terms` and `score` only, so that its weights may be dealt over the ranks."""

    supports_static_shapes: bool = False
    """Whether its micro-batches can have a fixed shape (`train.static`)."""

    sharded: nn.Module | None = None
    """What deals the weights over the ranks; None where each has a copy."""

    around: Callable[[Any], Mapping[str, LossTerm]] | None = None
    """What runs in place of `terms` in a step: `terms`, with something around it."""

    replays: bool = False
    """Whether `around` leaves gradients where those of the next micro-batch will be."""

    layered: LayerwiseOffload | None = None
    """What runs a step's micro-batches together, a layer at a time; None where each goes through the model alone."""

    @abc.abstractmethod
    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """The next step's work for this rank, prepared for `terms`; moves the feed on.

        `progress` 0..1 is for the objective's schedules; `batch_tokens` of all ranks; `length`: longest sequence.
        """

    @abc.abstractmethod
    def counts(self, batch: Any) -> Mapping[str, Count]:
        """The counts of the learned terms of a prepared micro-batch, before the model runs."""

    @abc.abstractmethod
    def terms(self, batch: Any) -> Mapping[str, LossTerm]:
        """Run the model: the named terms of a micro-batch."""

    @abc.abstractmethod
    def score(self, tokens: int) -> dict[str, float]:
        """Held-out figures, on about so many tokens; leaves no trace in the training. All ranks call it."""

    @abc.abstractmethod
    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Write the finished model (what is to be used, not what is needed to resume) as an artifact. Rank 0 only."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed: settings and fingerprints of the data, as JSON."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Where the data stands, as JSON; equal on all ranks."""

    @abc.abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises `CheckpointError` if it was made for other data."""

    @classmethod
    @abc.abstractmethod
    def rebuild(cls, recipe: Mapping[str, Any], distributed: DistributedContext, device: torch.device) -> Job:
        """The job of a run's recipe.json, as at its first step, for a member of a team."""

    def run(self, batch: Any) -> Mapping[str, LossTerm]:
        """`terms` as a step wants it: by `around` where there is such a thing."""
        return self.terms(batch) if self.around is None else self.around(batch)

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        """What of a `score` is to be as high as possible: the weights that reached most are those that are saved. None
        where the last weights are."""
        return None

    def lr_scale(self, name: str) -> float:
        """What the rate of a parameter of `module`, by its name, is multiplied by."""
        return 1.0

    @classmethod
    def memory_estimate(cls, recipe: Mapping[str, Any]) -> MemoryEstimate | None:
        """Memory and disk of a run of this recipe, before anything is built; None where unknown."""
        return None

    @property
    def epoch_tokens(self) -> int:
        """Tokens that can be seen before any is seen twice; 0 where there is no such number."""
        return 0

    def schedule_values(self, progress: float) -> dict[str, float]:
        """What the job's schedules say, for the log."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Further numbers for the log line of a step (epochs)."""
        return {}

    def warnings(self, dtype: torch.dtype) -> list[str]:
        """What slows the run though a setting could mend it, with its price, in words; products are in `dtype`. Leaves
        no trace in the training."""
        return []

    def expected_loss(self, tokens: int, steps: int) -> LossRange | None:
        """Between which held-out losses runs like this one lie after so many tokens and steps; None where unknown."""
        return None

    def close(self) -> None:
        """Release threads and files."""
        return
