"""Runs on a fixed set of examples, from data to recipe to job: the data is read and tokenised once, for both.

Fine-tuning and embedding training are planned with this module, from tables that `rows/labelled.py` has read. Their
examples are prepared first; the lengths of the examples decide steps, budget and evaluations; the plan then hands the
prepared examples to the job. Only a resumed run prepares them again, from its recipe. Shapes: E examples.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from encodery.base.errors import EmptyInput, SettingsError
from encodery.base.settings import encode
from encodery.model.load import LoadedModel
from encodery.tokens.shuffle import Integers
from encodery.train.distributed import DistributedContext
from encodery.train.examples import ExampleJob
from encodery.train.launch import BuildJob
from encodery.train.recipe import Recipe
from encodery.train.settings import NEUTRAL_SETTINGS

S = TypeVar("S", bound=Any)
P = TypeVar("P", bound="PreparedExamples")


class PreparedExamples(abc.ABC):
    """Tokenised training examples, and the model `loaded` that training starts from, whose tokenizer made them."""

    loaded: LoadedModel

    @property
    @abc.abstractmethod
    def lengths(self) -> Integers:
        """(E,) tokens of each example, all its sequences and special tokens together."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Differs if the data does."""


class PreparedJob(ExampleJob, Generic[S, P]):
    """Contract of a job that is made of prepared examples: by its plan, or by `prepare` if a run is resumed."""

    settings: S
    prepared: P

    @abc.abstractmethod
    def __init__(
        self,
        settings: S,
        prepared: P,
        distributed: DistributedContext,
        device: torch.device,
        recipe: Recipe[S] | None = None,
    ) -> None:
        """Make the job on `device`, in one of the processes of `distributed`; `recipe` is stored with the model."""

    @classmethod
    @abc.abstractmethod
    def prepare(cls, recipe: Recipe[S]) -> P:
        """Read and tokenise the inputs of a recipe. Raises `UserError` if they are missing or cannot be used."""

    @classmethod
    def from_recipe(cls, recipe: Recipe[S], distributed: DistributedContext, device: torch.device) -> PreparedJob[S, P]:
        """See `Job`. Reads model and data."""
        return cls(recipe.settings, cls.prepare(recipe), distributed, device, recipe)

    def identity(self) -> dict[str, Any]:
        """See `Job`. All settings on which the weights depend, and the fingerprints of data and model."""
        table: dict[str, Any] = {**encode(self.settings), "data": self.prepared.fingerprint}
        source = self.prepared.loaded
        table["model"] = str(source.path) if source.artifact is None else source.artifact.manifest.fingerprint
        table["train"] = {name: value for name, value in table["train"].items() if name not in NEUTRAL_SETTINGS}
        return table


@dataclass(frozen=True, eq=False)
class ExamplePlan(Generic[S, P]):
    """A complete run that has not started.

    `recipe` for `train.launch.start`; `notes`: messages about the data and the settings that were chosen. `prepared` is
    what planning has read: `start(plan.recipe, out, console, plan.build)` reads nothing again.
    """

    job: type[PreparedJob[S, P]]
    recipe: Recipe[S]
    notes: list[str]
    prepared: P

    def build(self, distributed: DistributedContext, device: torch.device) -> PreparedJob[S, P]:
        """Make the job of the recipe from the prepared examples."""
        return self.job(self.recipe.settings, self.prepared, distributed, device, self.recipe)

    def builder(self, recipe: Recipe[S]) -> BuildJob:
        """Return `build` for a recipe that differs from that of the plan in settings of `train` only."""
        return lambda distributed, device: self.job(recipe.settings, self.prepared, distributed, device, recipe)


def example_recipe(
    job: type[PreparedJob[S, P]], settings: S, model: str | Path, data: str | Path, name: str = ""
) -> Recipe[S]:
    """Return the recipe of a job on the rows of `data`; `name`: the recipe file that the settings came from."""
    source = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    return Recipe(
        job=job.name(), inputs={"model": source, "data": str(Path(data).resolve())}, settings=settings, name=name
    )


def settings_for_epochs(lengths: npt.ArrayLike, batch_size: int, epochs: float) -> dict[str, Any]:
    """The `train` settings of a number of epochs: a budget in steps, and the mean number of tokens of a step.

    Raises `SettingsError` for a number of epochs or a batch size that is not positive, `EmptyInput` without examples.
    """
    sizes = np.asarray(lengths, np.int64)
    if not len(sizes):
        raise EmptyInput("There are no examples to train on.")
    if not epochs > 0 or batch_size < 1:
        raise SettingsError(f"epochs = {epochs}, batch = {batch_size}: both must be positive.")
    steps = max(round(len(sizes) * epochs / batch_size), 1)
    return {"budget": f"{steps}steps", "batch_tokens": max(round(float(sizes.mean()) * batch_size), 1)}


def evaluation_settings(evals: int, eval_tokens: int, patience: int) -> dict[str, Any]:
    """The `train` settings by which the best weights are chosen on dev rows.

    `eval_tokens`: tokens of an evaluation; `patience`: evaluations in a row without improvement that end a run. No
    evaluation is skipped to save time, so that the weights chosen do not depend on the clock.
    """
    return {"eval_time_fraction": 0.99, "evals": evals, "eval_tokens": eval_tokens, "patience": patience}
