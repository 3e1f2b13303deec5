"""From a task, a data folder, a model and what a user sets to a whole recipe, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base.settings import encode
from encodery.finetune.data import Data, read
from encodery.finetune.job import FinetuneJob, reader_of
from encodery.finetune.settings import FinetuneSettings, filled, first_read
from encodery.model.load import Loaded, load_model


@dataclass(frozen=True, eq=False)
class Plan:
    """`recipe` for `train.launch.start`; `notes`: what was guessed, found and chosen, in words."""

    recipe: dict[str, Any]
    notes: list[str]


def plan(task: str, data: str | Path, model: str | Path, over: Mapping[str, Any]) -> Plan:
    """Read model and data, and fill in what is not set (`settings.py`).

    Raises `UnknownName` for a task that is none, `SettingsError`, `InputError` and `EmptyInput` for what cannot be.
    """
    early = first_read(task, over)
    loaded = load_model(model)
    found = read(data, early)
    settings, told = whole(early, over, loaded, found)
    return Plan(recipe_of(settings, data, model), [*found.notes, *told])


def whole(
    early: FinetuneSettings, over: Mapping[str, Any], loaded: Loaded, data: Data
) -> tuple[FinetuneSettings, list[str]]:
    """The settings with what the rules say for these rows and this model, and that in words."""
    known = early.task.study(data.train, loaded.tokenizer)
    examples = early.task.prepare(data.train, reader_of(early, loaded), known, True)
    words = float(loaded.model.encoder.words.detach().square().mean().sqrt())
    settings = filled(early, over, examples.lengths, loaded.model.settings, words)
    told = []
    cut = int((examples.dropped > 0).sum())
    if cut:
        told.append(
            f"{cut:,} of {examples.rows:,} training rows are too long: {int(examples.dropped.sum()):,} tokens are cut "
            f"off (truncate = {settings.policy}, max_length = {settings.longest(loaded.model.settings.max_length)})"
        )
    if len(examples) != examples.rows:
        told.append(f"{examples.rows:,} rows are read in {len(examples):,} windows")
    assert settings.optim is not None
    faster = f" (words {settings.word_rate:g} times as fast)" if settings.word_rate != 1 else ""
    told.append(
        f"{settings.epochs:g} epochs in batches of {settings.batch}, rate {settings.optim.lr:g}{faster}: "
        f"{settings.train.budget.removesuffix('steps')} steps"
    )
    if data.dev is None:
        told.append("there are no dev rows: the last weights are kept, nothing is calibrated")
    return settings, told


def recipe_of(settings: FinetuneSettings, data: str | Path, model: str | Path) -> dict[str, Any]:
    """What a run folder keeps as recipe.json, from which `FinetuneJob.rebuild` makes the job."""
    place = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    return {
        "job": f"{FinetuneJob.__module__}.{FinetuneJob.__name__}",
        "model": place,
        "data": str(Path(data).resolve()),
        **encode(settings),
    }
