"""From a task, a data folder, a model and what a user sets to a whole recipe, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.finetune.data import LabelledData, read_data
from encodery.finetune.job import FinetuneJob, preprocessor_for
from encodery.finetune.settings import FinetuneSettings, complete_settings, initial_settings
from encodery.model.load import LoadedModel, load_model
from encodery.train.recipe import Recipe

Reporter = Callable[[str], None]
"""Called with messages for the user."""


@dataclass(frozen=True, eq=False)
class FinetunePlan:
    """`recipe` for `train.launch.start`; `notes`: what was guessed, found and chosen, in words."""

    recipe: Recipe[FinetuneSettings]
    notes: list[str]


def plan_finetuning(task: str, data: str | Path, model: str | Path, overrides: Mapping[str, Any]) -> FinetunePlan:
    """Read model and data, and fill in what is not set (`settings.py`).

    Raises `UnknownName` for a task that is none, `SettingsError`, `InputError` and `EmptyInput` for what cannot be.
    """
    early = initial_settings(task, overrides)
    loaded = load_model(model)
    found = read_data(data, early)
    settings, told = complete_plan(early, overrides, loaded, found)
    return FinetunePlan(recipe_of(settings, data, model), [*found.notes, *told])


def complete_plan(
    settings: FinetuneSettings, overrides: Mapping[str, Any], loaded: LoadedModel, data: LabelledData
) -> tuple[FinetuneSettings, list[str]]:
    """The settings with what the rules say for these rows and this model, and that in words."""
    known = settings.task.fit_metadata(data.train, loaded.tokenizer)
    examples = settings.task.prepare(data.train, preprocessor_for(settings, loaded), known, True)
    words = float(loaded.model.encoder.token_embeddings.detach().square().mean().sqrt())
    settings = complete_settings(settings, overrides, examples.lengths, loaded.model.settings, words)
    told = []
    cut = int((examples.dropped_tokens > 0).sum())
    if cut:
        told.append(
            f"{cut:,} of {examples.num_rows:,} training rows are too long: {int(examples.dropped_tokens.sum()):,} tokens are cut "
            f"off (truncate = {settings.effective_truncate}, max_length = {settings.effective_max_length(loaded.model.settings.max_length)})"
        )
    if len(examples) != examples.num_rows:
        told.append(f"{examples.num_rows:,} rows are read in {len(examples):,} windows")
    assert settings.optim is not None
    faster = f" (words {settings.embedding_lr_scale:g} times as fast)" if settings.embedding_lr_scale != 1 else ""
    told.append(
        f"{settings.epochs:g} epochs in batches of {settings.batch}, rate {settings.optim.lr:g}{faster}: "
        f"{settings.train.budget.removesuffix('steps')} steps"
    )
    if data.dev is None:
        told.append("there are no dev rows: the last weights are kept, nothing is calibrated")
    return settings, told


def recipe_of(settings: FinetuneSettings, data: str | Path, model: str | Path) -> Recipe[FinetuneSettings]:
    """The recipe of a fine-tuning of `model` on the rows of `data`."""
    place = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    inputs = {"model": place, "data": str(Path(data).resolve())}
    return Recipe(job=FinetuneJob.name(), inputs=inputs, settings=settings)
