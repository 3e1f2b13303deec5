"""From a task, data, a model and the user's settings to a complete recipe, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from encodery.finetune.data import read_data
from encodery.finetune.job import FinetuneJob
from encodery.finetune.prepared import PreparedData, prepare_data
from encodery.finetune.settings import FinetuneSettings, complete_settings, initial_settings
from encodery.model.load import load_model
from encodery.train.example_plan import ExamplePlan, example_recipe

Reporter = Callable[[str], None]
"""Called with messages for the user."""


FinetunePlan = ExamplePlan[FinetuneSettings, PreparedData]


def plan_finetuning(task: str, data: str | Path, model: str | Path, overrides: Mapping[str, Any]) -> FinetunePlan:
    """Read model and data, and choose the settings that `overrides` leaves open (`settings.py`).

    Raises `UnknownName` for a task that does not exist, and `SettingsError`, `InputError` or `EmptyInput` for settings
    and data that cannot be used.
    """
    settings = initial_settings(task, overrides)
    loaded = load_model(model)
    prepared = prepare_data(settings, loaded, read_data(data, settings))
    return plan_prepared(settings, overrides, prepared, data, model)


def plan_prepared(
    settings: FinetuneSettings,
    overrides: Mapping[str, Any],
    prepared: PreparedData,
    data: str | Path,
    model: str | Path,
) -> FinetunePlan:
    """Make the plan of `initial_settings` for prepared data, which was read from `data` with the model at `model`."""
    embedding_rms = float(prepared.loaded.model.encoder.token_embeddings.detach().square().mean().sqrt())
    model_settings = prepared.loaded.model.settings
    settings = complete_settings(settings, overrides, prepared.lengths, model_settings, embedding_rms)
    notes = [*prepared.data.notes, *_notes(settings, prepared)]
    return ExamplePlan(FinetuneJob, example_recipe(FinetuneJob, settings, model, data), notes, prepared)


def _notes(settings: FinetuneSettings, prepared: PreparedData) -> list[str]:
    examples, notes = prepared.examples, list[str]()
    truncated = int((examples.dropped_tokens > 0).sum())
    if truncated:
        notes.append(
            f"{truncated:,} of {examples.num_rows:,} training rows are too long: "
            f"{int(examples.dropped_tokens.sum()):,} tokens are cut off (truncate = {settings.effective_truncate}, "
            f"max_length = {prepared.preprocessor.max_length})"
        )
    if len(examples) != examples.num_rows:
        notes.append(f"{examples.num_rows:,} rows are read in {len(examples):,} windows")
    assert settings.optim is not None
    scale = settings.embedding_lr_scale
    embeddings = f" (embeddings {scale:g} times that)" if scale != 1 else ""
    notes.append(
        f"{settings.epochs:g} epochs in batches of {settings.batch}, learning rate {settings.optim.lr:g}{embeddings}: "
        f"{settings.train.budget.removesuffix('steps')} steps"
    )
    if prepared.data.dev is None:
        notes.append("there are no dev rows: the last weights are kept, and nothing is calibrated")
    return notes
