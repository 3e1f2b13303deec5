"""From a model, data and overrides to the complete recipe of a run.

Shapes: E examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.recipes import load_recipe
from encodery.base.settings import decode, encode, merge_tables
from encodery.embed.defaults import default_epochs, default_loss, default_optimizer
from encodery.embed.examples import EmbeddingExamples
from encodery.embed.job import EmbedJob
from encodery.embed.objectives.dense import Dense
from encodery.embed.prepared import PreparedTexts, prepare_texts
from encodery.embed.reading import EmbedData, read_data
from encodery.embed.source_encoder import has_single_vectors, stored_dense_settings
from encodery.embed.training import EmbedTraining
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocess.whiten import Whiten
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model
from encodery.train.example_plan import ExamplePlan, evaluation_settings, example_recipe, settings_for_epochs
from encodery.train.optim import Optimizer

RAW_RECIPE, LABELLED_RECIPE = "simcse", "base"
WHITENING_SETTINGS = {"encoder", "columns", "truncate", "train"}  # that count where nothing is trained
NOT_TRAINED = (
    "raw sentences alone: nothing is trained; the embeddings are whitened. Training on raw sentences (--recipe simcse, "
    "mirror, tsdae, discsent) made small encoders worse; dev rows with scores would show whether it helps"
)
WHITENED = (
    "embeddings are whitened before training and trained through the whitening "
    "(objective.whiten_before_training=false turns it off)"
)
NOT_EVALUATED = (
    "warning: there are no dev rows that show whether training on raw sentences helps, and the last weights are kept; "
    "it made small encoders worse. Add scored pairs as dev rows, or compare with the model before training by "
    "`encodery evaluate sts`"
)
MIN_EVALS, MAX_EVALS = 10, 20
MIN_EVAL_TOKENS, MAX_EVAL_TOKENS = 16_384, 131_072  # Of one evaluation.
EVAL_FRACTION = 0.5  # Tokens of all evaluations, at most, per token of training; one costs a third of a training token.


@dataclass(frozen=True, eq=False)
class EmbedPlan:
    """A run of embedding training, complete before it starts.

    Args:
        training: what `train.launch.start` runs; None where nothing is trained.
        settings: the settings that it was made of.
        notes: lines for the user.
        sentences: raw sentences, where nothing is trained: the postprocess steps of `settings.encoder` are fitted to
            them (`postprocess_fitting.fit_postprocess`).
        test: the test examples for that case, if there are any.
    """

    training: ExamplePlan[EmbedTraining, PreparedTexts] | None
    settings: EmbedTraining
    notes: list[str]
    sentences: list[str] = field(default_factory=list)
    test: EmbeddingExamples | None = None


def plan_training(data: Path, model: str | Path, name: str | None, overrides: Mapping[str, Any]) -> EmbedPlan:
    """Read the data once and choose what the recipe leaves open.

    Args:
        data: a file, or a folder of splits.
        model: the model that training starts from.
        name: a recipe of `recipes/embed`, or a TOML file. None for `base`, or for raw sentences `simcse` where dev rows
            show whether it helps. Where none do, and neither a loss nor an objective is train_settings, raw sentences
            are only used to whiten the embeddings: training on them made small encoders worse (bench/LOG.md).
        overrides: settings that replace those of the recipe.

    Raises `SettingsError`, `UnknownName` and what reading raises.
    """
    loaded = load_model(model)
    settings = recipe_settings(name or LABELLED_RECIPE, overrides, loaded)
    read = read_data(data, settings, loaded)
    not_evaluated = read.train.raw and (read.dev is None or read.dev.raw)
    if not_evaluated and name is None and settings.loss is None and settings.objective.uses_loss:
        return _plan_whitening(read, overrides, loaded)
    if name is None:
        name = RAW_RECIPE if read.train.raw and settings.objective.uses_loss else LABELLED_RECIPE
        settings = recipe_settings(name, overrides, loaded)
    if settings.objective.uses_loss:
        settings = dataclasses.replace(settings, loss=settings.loss or default_loss(read.train))
    settings = dataclasses.replace(settings, optim=settings.optim or _optimizer(settings, loaded))
    prepared = prepare_texts(settings, loaded, read)
    notes = [*read.notes, *prepared.arrangement_notes, *_text_notes(prepared, settings)]
    if _needs_whitening(settings, overrides, loaded):
        encoder = dataclasses.replace(settings.encoder, postprocess=(Whiten(power=1.0), Normalise()))
        settings = dataclasses.replace(settings, encoder=encoder, objective=Dense(whiten_before_training=True))
        notes.append(WHITENED)
    settings, note = _with_budget(settings, name, overrides, prepared.lengths)
    notes += [note, NOT_EVALUATED] if not_evaluated else [note]
    recipe = example_recipe(EmbedJob, settings, loaded.path, data, name)
    return EmbedPlan(ExamplePlan(EmbedJob, recipe, notes, prepared), settings, notes)


def _with_budget(
    settings: EmbedTraining, name: str, overrides: Mapping[str, Any], lengths: np.ndarray
) -> tuple[EmbedTraining, str]:
    """The settings with batch size, budget and evaluations for examples of these lengths (E,), and a note on them."""
    chosen = "" if settings.batch else " (chosen by the number of examples)"
    settings = dataclasses.replace(settings, batch=(batch := settings.batch_size_for(len(lengths))))
    epochs = settings.epochs or default_epochs(len(lengths))
    train_settings = merge_tables(load_recipe("embed", name).get("train", {}), overrides.get("train", {}))
    filled = {key: value for key, value in dev_evaluations(lengths, epochs).items() if key not in train_settings}
    if "budget" not in train_settings:
        filled |= settings_for_epochs(lengths, min(batch, len(lengths)), epochs)
        settings = dataclasses.replace(settings, epochs=epochs)
    train = decode(type(settings.train), merge_tables(encode(settings.train), filled), "train")
    learns = f"objective {name_of(settings.objective)}"
    learns = learns if settings.loss is None else f"{learns}, loss {name_of(settings.loss)}"
    note = f"{learns}, {batch} examples per step{chosen}, budget {train.budget}"
    return dataclasses.replace(settings, train=train), note


def dev_evaluations(lengths: np.ndarray, epochs: float) -> dict[str, Any]:
    """Return the `train` settings of evaluations on dev rows, for examples of these lengths (E,) and a number of
    epochs. A run ends early after half of all evaluations without a better one."""
    evals = min(max(round(epochs), MIN_EVALS), MAX_EVALS)
    tokens = int(float(lengths.sum()) * epochs * EVAL_FRACTION / evals)
    return evaluation_settings(evals, min(max(tokens, MIN_EVAL_TOKENS), MAX_EVAL_TOKENS), evals // 2)


def recipe_settings(name: str, overrides: Mapping[str, Any], loaded: LoadedModel) -> EmbedTraining:
    """Return a recipe over the model's own encoder settings, with overrides. Raises `SettingsError`."""
    own = merge_tables(encode(EmbedTraining()), {"encoder": stored_dense_settings(loaded.settings)})
    base = encode(decode(EmbedTraining, merge_tables(own, load_recipe("embed", name)), f"recipe {name}"))
    return decode(EmbedTraining, merge_tables(base, overrides), f"recipe {name}")


def _plan_whitening(read: EmbedData, overrides: Mapping[str, Any], loaded: LoadedModel) -> EmbedPlan:
    """Raises `SettingsError` for settings of training."""
    unused = sorted(set(overrides) - WHITENING_SETTINGS)
    unused += [f"train.{name}" for name in overrides.get("train", {}) if name != "seed"]
    if unused:
        raise SettingsError(
            f"{', '.join(unused)}: without effect, since raw sentences alone are not trained on unless a recipe "
            "(--recipe simcse, mirror, tsdae or discsent) or a loss is train_settings."
        )
    whitening = {"encoder": {"postprocess": ["whiten", "normalise"]}}
    settings = recipe_settings(LABELLED_RECIPE, merge_tables(whitening, overrides), loaded)
    return EmbedPlan(None, settings, [*read.notes, NOT_TRAINED], read.train.columns[0], read.test)


def _needs_whitening(settings: EmbedTraining, overrides: Mapping[str, Any], loaded: LoadedModel) -> bool:
    """Whether to whiten before training: for scored pairs and a model that was never trained for embeddings, whose
    embeddings are all similar (bench/LOG.md), unless the user has chosen."""
    dense = isinstance(settings.objective, Dense)
    scored = dense and settings.loss is not None and settings.loss.target_kind == "score"
    objective = overrides.get("objective", {})
    chosen = isinstance(objective, Mapping) and "whiten_before_training" in objective
    chosen = chosen or settings.encoder.postprocess != DenseSettings().postprocess
    return scored and not chosen and not has_single_vectors(loaded.settings)


def _optimizer(settings: EmbedTraining, loaded: LoadedModel) -> Optimizer:
    parameter_efficient = settings.adapt is not None and settings.adapt.parameter_efficient
    return default_optimizer(loaded.model.settings.width, parameter_efficient)


def _text_notes(prepared: PreparedTexts, settings: EmbedTraining) -> list[str]:
    """Notes on the number of texts and on what is cut off."""
    data, pool, limit = prepared.train, prepared.pool, settings.max_tokens(prepared.loaded.model.settings.max_length)
    notes = [f"{len(data):,} examples of {len(data.columns)} texts, {len(pool.texts):,} different texts"]
    if pool.num_truncated:
        notes.append(
            f"{pool.num_truncated:,} texts are longer than {limit} tokens: {pool.dropped:,} tokens are cut off "
            f"(truncate = {settings.truncate})"
        )
    if pool.has_windows:
        long = pool.num_windows > 1
        notes.append(
            f"{long.sum():,} texts are longer than {limit} tokens: they are read in {pool.num_windows[long].sum():,} "
            "windows whose embeddings are averaged (truncate = chunk)"
        )
    return notes
