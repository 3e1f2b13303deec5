"""The contract of a job: what the training loop must know of what is trained. Pre-training is one job among others.

The loop asks the job for the micro-batches of a step and for the loss terms of each, and runs the backward pass itself.
The loss of a step is Σ weight · Σ total / Σ count over all micro-batches and ranks (`encodery.objectives`). A job draws
all random numbers from `derive_seed(seed, what, step, index of the micro-batch)`, never from a stream. So a resumed run
sees the same masks as an uninterrupted one, and one process sees the same as two. The state of a job is its position in
the data.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from encodery.base.errors import InputError, SettingsError
from encodery.base.parts import module_exists
from encodery.model.network import Model
from encodery.objectives import Count, LossRange, LossTerm, ObjectiveModule
from encodery.train.distributed import DistributedContext
from encodery.train.hooks import RunningHook
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.recipe import Recipe

PACKAGE = "encodery"


@dataclass(frozen=True)
class MicroBatch:
    """A prepared micro-batch on its device. `index` counts over all ranks, so that seeds do not depend on the rank."""

    index: int
    batch: Any


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of this rank in one step; `tokens` and floating-point operations (`flops`) of all ranks."""

    micro_batches: Sequence[MicroBatch]
    tokens: int
    flops: float = 0.0


@dataclass(frozen=True, eq=False)
class JobOutputs:
    """What the model of a job computed for a prepared micro-batch.

    `hidden` (T, H): the last hidden states of the encoder. `logits` (N, C): the predictions, one row for each.
    `is_softmax`: whether the softmax of a row gives the probabilities of C classes; otherwise the values are scores.
    """

    hidden: Tensor
    logits: Tensor
    is_softmax: bool


class Job(abc.ABC):
    """What the loop runs. All ranks hold equal jobs and call the same methods in the same order.

    A job declares what is true of it in class variables; how its micro-batches run is decided by a `train.execution`.
    """

    settings_type: ClassVar[type]
    """The class of the settings in its recipes."""

    supports_fsdp: ClassVar[bool] = False
    """Whether the model runs in `terms` and `score` only, so that its weights may be sharded over the ranks."""

    supports_layerwise: ClassVar[bool] = False
    """Whether the weights of a layer may be on the device while that layer runs only (`layerwise_parts`)."""

    supports_static_shapes: ClassVar[bool] = False
    """Whether its micro-batches can have one fixed shape (`train.static_shapes`)."""

    module: nn.Module
    """Everything that is trained; its parameter names are those in checkpoints. The execution moves it to the
    device."""

    model: Model
    """The model in `module` that is trained and saved; others belong to the objective."""

    @classmethod
    def name(cls) -> str:
        """The name of the job in a recipe: its module, without the package."""
        return cls.__module__.removeprefix(f"{PACKAGE}.")

    @classmethod
    @abc.abstractmethod
    def from_recipe(cls, recipe: Recipe[Any], distributed: DistributedContext, device: torch.device) -> Job:
        """The job of a recipe as it is before its first step, for one rank of a run."""

    @abc.abstractmethod
    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """The micro-batches of the next step for this rank, ready for `terms`; advances in the data.

        Args: `progress` in 0..1 for the schedules of the objective; `batch_tokens` of all ranks; `max_length`: tokens
        of the longest sequence (None: as in the settings)."""

    @abc.abstractmethod
    def counts(self, batch: Any) -> Mapping[str, Count]:
        """The counts of the loss terms of a prepared micro-batch, before the model runs."""

    @abc.abstractmethod
    def terms(self, batch: Any) -> Mapping[str, LossTerm]:
        """Run the model on a prepared micro-batch and return its named loss terms."""

    @abc.abstractmethod
    def score(self, tokens: int) -> dict[str, float]:
        """Held-out metrics over about `tokens` tokens. Does not affect training. All ranks call it."""

    @abc.abstractmethod
    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """Write the finished model as an artifact: what users need, not what resuming needs. Rank 0 only."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be resumed: settings and fingerprints of the data, as JSON."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """The position in the data, as JSON; equal on all ranks."""

    @abc.abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises `CheckpointError` if the state belongs to other data."""

    # What a job that wraps this one uses (`compress/`)

    @classmethod
    def with_model(cls, recipe: Recipe[Any], model: str) -> Recipe[Any]:
        """The recipe with training starting from another model, which may be a run of this job.

        Raises `SettingsError` if the job reads no model.
        """
        if "model" not in recipe.inputs:
            raise SettingsError(f"The job '{cls.name()}' does not start from a model.")
        return dataclasses.replace(recipe, inputs={**recipe.inputs, "model": model})

    def load_result(self, folder: Path) -> None:
        """Load the weights beside the model that `save` has written into `folder`, such as the head of a task, if the
        recipe is one of `with_model` for that folder."""
        return

    def terms_and_outputs(self, batch: Any) -> tuple[Mapping[str, LossTerm], JobOutputs]:
        """Return what `terms` does, and the outputs from which it was computed, both of one forward pass.

        Raises `SettingsError` if the predictions of the job cannot be compared with those of another model.
        """
        raise SettingsError(f"The job '{self.name()}' gives no predictions that a teacher could be compared with.")

    @classmethod
    def prediction_bytes(cls, recipe: Recipe[Any]) -> int:
        """The bytes of the predictions in the outputs of a micro-batch, before anything is built; 0 if unknown."""
        return 0

    def num_predictions(self, batch: Any) -> Count:
        """The number N of predictions in the outputs of a prepared micro-batch, before the model runs.

        Raises as `terms_and_outputs`.
        """
        raise SettingsError(f"The job '{self.name()}' gives no predictions that a teacher could be compared with.")

    def hooks(self) -> Sequence[RunningHook]:
        """Hooks of the job, called after those of the recipe."""
        return ()

    # What the loop asks beyond that

    @property
    def num_parameters(self) -> int:
        """The number of parameters of what `save` writes, tied ones counted once."""
        return sum(p.numel() for p in self.module.parameters())

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        """The number of a `score` by which the best weights are selected, higher is better; None to keep the last."""
        return None

    def lr_scale(self, name: str) -> float:
        """The factor on the learning rate of the parameter `name` of `module`."""
        return 1.0

    @classmethod
    def memory_estimate(cls, recipe: Recipe[Any]) -> MemoryEstimate | None:
        """Memory and disk that a run of this recipe needs, before anything is built; None if unknown."""
        return None

    def layerwise_parts(self) -> tuple[Model, ObjectiveModule] | None:
        """The model and the objective whose step may run one layer at a time; None if something stands between the
        layers."""
        return None

    @property
    def epoch_tokens(self) -> int:
        """Number of tokens in one pass over the data; 0 if there is no such number."""
        return 0

    def schedule_values(self, progress: float) -> dict[str, float]:
        """The values of the job's own schedules at `progress`, for the log."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Further numbers for the log line of a step, such as the epoch."""
        return {}

    def warnings(self, dtype: torch.dtype) -> list[str]:
        """Sentences about what makes this run slower or weaker and which setting helps; matrix products are in `dtype`.
        Does not affect training."""
        return []

    def expected_loss(self, tokens: int, steps: int) -> LossRange | None:
        """The range of held-out losses that comparable runs had after `tokens` and `steps`; None if unknown."""
        return None

    def close(self) -> None:
        """Release threads and files."""
        return


def find_job(name: str) -> type[Job]:
    """The job of this name. Raises `InputError` if no such module exists or it does not define exactly one job."""
    for module_name in (f"{PACKAGE}.{name}", name):
        if module_exists(module_name):
            values = vars(importlib.import_module(module_name)).values()
            jobs = [v for v in values if inspect.isclass(v) and issubclass(v, Job) and v.__module__ == module_name]
            if len(jobs) == 1:
                return jobs[0]
            raise InputError(f"recipe.json: the module {module_name} defines {len(jobs)} jobs; it must define one.")
    raise InputError(f"recipe.json: there is no job '{name}'.")
