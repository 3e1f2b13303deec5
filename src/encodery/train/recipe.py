"""The recipe of a run: which job it is, what it reads, and all settings. A run folder keeps it as `recipe.json`.

Recipes are encoded and decoded here and nowhere else. A job is named by its module: `train.pretrain`, `finetune.job`,
`embed.job`, or the dotted path of a module outside the package (`job.find_job`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from encodery.base.artifact import atomic_write
from encodery.base.errors import InputError
from encodery.base.settings import decode, encode
from encodery.train.hooks import Hook
from encodery.train.optim import Optimizer
from encodery.train.settings import TrainSettings

RECIPE = "recipe.json"


class JobSettings(Protocol):
    """What the loop needs of the settings of any job. `optim` is not None once a run starts."""

    @property
    def train(self) -> TrainSettings:
        """Budget, batch, schedules, execution."""

    @property
    def optim(self) -> Optimizer | None:
        """The optimiser."""

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """The hooks, in the order in which they are called."""


S = TypeVar("S", bound=Any)


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[S]):
    """`job`: the name of the job; `inputs`: the paths of what it reads, by role ("tokens", "model", "data");
    `settings`: the job's own settings; `name`: the recipe file that they came from; `stage`: set if something else than
    the loop made the run; `branched_from`: the run and the checkpoint that a branch continues."""

    job: str
    inputs: Mapping[str, str]
    settings: S
    name: str = ""
    stage: str = ""
    branched_from: Mapping[str, str] | None = None

    def encode(self) -> dict[str, Any]:
        """The recipe as JSON values, as recipe.json and the manifests of models hold it."""
        table = {"job": self.job, "name": self.name, "inputs": dict(self.inputs), "settings": encode(self.settings)}
        if self.stage:
            table["stage"] = self.stage
        if self.branched_from is not None:
            table["branched_from"] = dict(self.branched_from)
        return table

    @classmethod
    def decode(cls, table: Mapping[str, Any], settings_type: type[S]) -> Recipe[S]:
        """The recipe that `encode` wrote. Raises `SettingsError` naming the setting that cannot be read."""
        settings = decode(settings_type, table["settings"], "recipe.json: settings")
        return cls(**{**table, "settings": settings})

    def write(self, folder: Path) -> None:
        """Write recipe.json into a run folder."""
        atomic_write(folder / RECIPE, json.dumps(self.encode(), indent=1, ensure_ascii=False) + "\n")

    def with_train(self, **changes: Any) -> Recipe[S]:
        """The same recipe with some settings of `train` changed."""
        train = dataclasses.replace(self.settings.train, **changes)
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, train=train))


def read_recipe_table(folder: Path) -> dict[str, Any]:
    """recipe.json of a run folder, not decoded. Raises `InputError` if there is none."""
    path = folder / RECIPE
    if not path.is_file():
        raise InputError(
            f"{folder}: has no {RECIPE}, so it is no run folder. Give a folder that `encodery pretrain` wrote."
        )
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table
