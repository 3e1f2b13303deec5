"""Execution strategies: how the micro-batches of a step run on the devices.

The launcher chooses a strategy by the settings of `train` (`launch.choose_execution`), builds it on the job and gives
it to the loop. Losses and gradients are those of `plain`, up to the order of additions. A part holds no settings: the
settings of `train` select it."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from encodery.base.parts import Part
from encodery.objectives import Count, LossTerm
from encodery.train.distributed import DistributedContext
from encodery.train.job import Job
from encodery.train.precision import NumberFormat
from encodery.train.recipe import JobSettings
from encodery.train.settings import TrainSettings

StepTerms = list[dict[str, LossTerm]]
"""The loss terms of each micro-batch of a step, without a graph."""


@dataclass(frozen=True)
class PreparedStep:
    """What a rank computes in one step: prepared micro-batches, the `counts` of the whole step, one seed for each
    micro-batch (dropout), the number format, and the factor on the loss before the backward pass."""

    micro_batches: Sequence[Any]
    counts: Mapping[str, Count]
    seeds: Sequence[int]
    number_format: NumberFormat
    loss_scale: float = 1.0


class Execution(Part):
    """Contract of an execution strategy."""

    supports_resizing: ClassVar[bool] = False
    """Whether parameters may become smaller between steps, in a run of one process."""

    @abc.abstractmethod
    def selected(self, train: TrainSettings) -> bool:
        """Whether the settings select this strategy. `plain` is used if they select none."""

    @abc.abstractmethod
    def incompatibilities(self, job: type[Job], settings: JobSettings, device: torch.device) -> list[str]:
        """Why such a job cannot run so with these settings, a sentence each; empty if it can."""

    @abc.abstractmethod
    def build(self, job: Job, distributed: DistributedContext, device: torch.device) -> RunningExecution:
        """The strategy applied to `job`, whose module it moves to the device. Raises `SettingsError` if the model of
        the job does not allow it."""


class RunningExecution(abc.ABC):
    """A strategy applied to one job."""

    job: Job

    @abc.abstractmethod
    def accumulate(self, step: PreparedStep) -> StepTerms:
        """Add the gradient of `loss_scale` times the loss of a step to the parameters; this rank's part of it only."""

    def whole_weights(self) -> contextlib.AbstractContextManager[None]:
        """Inside, every rank holds all weights and may run the model without the others; without a graph."""
        return contextlib.nullcontext()

    def full_parameters(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the parameters of the job's module are whole tensors, to be written; the model cannot run."""
        return contextlib.nullcontext()

    def warnings(self) -> list[str]:
        """Sentences about what this strategy costs on this device."""
        return []
