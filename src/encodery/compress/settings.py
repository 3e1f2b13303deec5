"""The settings of a compression: the recipe of the run that is repeated, and what is done to its model meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.errors import InputError, SettingsError
from encodery.base.settings import check_interval, decode, encode, merge_tables
from encodery.compress.distill import Distillation
from encodery.compress.prune import Pruning
from encodery.compress.quantize import Quantization
from encodery.train.hooks import Hook
from encodery.train.job import find_job
from encodery.train.launch import decode_recipe
from encodery.train.loop import MODEL
from encodery.train.optim import Optimizer
from encodery.train.recipe import Recipe, read_recipe_table
from encodery.train.settings import TrainSettings

JOB = "compress.job"


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """A recipe of `encodery compress`.

    `wrapped`: the recipe of the run that is repeated, as recipe.json has it. `model`: what training starts from (null:
    the model of that run). `distill`: comparisons with the model of that run, the teacher; `task_weight`: the weight of
    the job's own loss beside them. `prune`, `quantize`: what is done to the weights. `train`, `optim`, `hooks` are
    those of the run unless they are set.
    """

    wrapped: dict[str, Any]
    model: str | None = None
    distill: tuple[Distillation, ...] = ()
    task_weight: float = 1.0
    prune: Pruning | None = None
    quantize: Quantization | None = None
    train: TrainSettings
    optim: Optimizer | None
    hooks: tuple[Hook, ...] = ()

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x", "task_weight")
        if not self.distill and self.prune is None and self.quantize is None:
            raise SettingsError(
                "Nothing is compressed: set distill=logits, prune.is=magnitude or quantize.is=fake, or several."
            )
        if not self.distill and not self.task_weight:
            raise SettingsError("task_weight = 0: needs a teacher; set distill=logits.")

    def job_recipe(self) -> Recipe[Any]:
        """The recipe of the wrapped job, with the settings of the loop that are set here."""
        recipe = decode_recipe(self.wrapped)
        settings = dataclasses.replace(recipe.settings, train=self.train, optim=self.optim, hooks=self.hooks)
        return dataclasses.replace(recipe, settings=settings)


OWN_SETTINGS = {field.name for field in dataclasses.fields(CompressSettings)} - {"wrapped", "model"}


def compress_recipe(run: Path, overrides: Mapping[str, Any], model: str | None = None) -> Recipe[CompressSettings]:
    """The recipe that repeats a finished run and compresses its model.

    Args:
        run: a run folder of any job, also of a compression.
        overrides: a table of settings: those of `CompressSettings`, or of the job. `distill` may be one comparison.
        model: what training starts from (None: the model of the run).

    Raises `InputError` if the folder is no finished run, `SettingsError` for settings that neither has.
    """
    table = read_recipe_table(run)
    if not (run / MODEL).is_dir():
        raise InputError(f"{run}: has no finished model. `encodery resume {run}` finishes the run.")
    wrapped = table["settings"]["wrapped"] if table["job"] == JOB else table
    of_job = {name: value for name, value in overrides.items() if name not in OWN_SETTINGS}
    wrapped = {**wrapped, "settings": merge_tables(wrapped["settings"], of_job)}
    job = find_job(wrapped["job"])
    trained = encode(decode(job.settings_type, wrapped["settings"], "settings"))
    defaults = {"wrapped": wrapped, "model": None if model is None else _absolute(model)}
    defaults |= {name: trained[name] for name in ("train", "optim", "hooks")}
    own = {name: value for name, value in overrides.items() if name in OWN_SETTINGS}
    if isinstance(own.get("distill"), str | Mapping):
        own["distill"] = [own["distill"]]
    settings = decode(CompressSettings, merge_tables(defaults, own), "settings")
    return Recipe(job=JOB, inputs={**wrapped["inputs"], "run": str(run.resolve())}, settings=settings)


def _absolute(model: str) -> str:
    """The absolute path of a folder; a name on the hub as it is."""
    return str(Path(model).resolve()) if Path(model).exists() else model
