"""From a model, data and what a recipe says to the whole recipe of a run: loss, rate, length, all said.

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
from encodery.embed.data import EmbeddingExamples, as_single_texts, default_loss, prepare_for_loss
from encodery.embed.job import longest_of, prompts_of
from encodery.embed.reading import EmbedData, read_data
from encodery.embed.sentences import sentence_windows
from encodery.embed.text_pool import TextPool
from encodery.embed.training import EmbedTraining, default_epochs, default_optimizer
from encodery.encoders.postprocess.normalise import Normalise
from encodery.encoders.postprocess.whiten import Whiten
from encodery.encoders.settings import DenseSettings
from encodery.model.load import LoadedModel, load_model
from encodery.train.examples import settings_for_epochs
from encodery.train.optim import Optimizer
from encodery.train.recipe import Recipe

JOBS = {
    "dense": "embed.job",
    "sparse": "embed.sparse_job",
    "tokens": "embed.multivector_job",
}
DENOISE = "embed.denoise_job"
DISCOURSE = "embed.discourse_job"
RAW, LABELLED = "simcse", "base"
LEARNING_SETTINGS = {"loss", "rebuild", "discourse"}
UNTRAINED = (
    "raw sentences alone: nothing is trained, the vectors are whitened. Learning from them (--recipe simcse, mirror, "
    "tsdae, discsent) took away from small encoders; dev rows with scores beside them would tell"
)
WHITENED = "vectors are whitened before training and trained through that (whiten_before_training=false: they are not)"
UNTOLD = (
    "warning: no dev rows tell whether learning from raw sentences helps here, and the last weights are kept; it took "
    "away from small encoders. Put scored pairs beside them as dev rows, or compare by `encodery evaluate sts` with "
    "the model before"
)
EVALS, MOST_EVALS = 10, 20
LEAST_TOKENS, MOST_TOKENS = 16_384, 131_072  # Of a score.
SCORED = 0.5  # Tokens of all scores at most, as a share of those of training; one costs a third of a step's.


@dataclass(frozen=True, eq=False)
class EmbedPlan:
    """`recipe`: what `encodery.train.launch.start` runs; `settings` it was made of; `notes` for the user, a line each.
    `sentences`: raw ones with which nothing is to be trained: the finish of `settings.embed` is fitted to them
    (`fitting.fit`), there is no recipe, and `test` holds the test rows, if there are any (`fitting.judged`)."""

    recipe: Recipe[EmbedTraining] | None
    settings: EmbedTraining
    notes: list[str]
    sentences: list[str] = field(default_factory=list)
    test: EmbeddingExamples | None = None


def plan_training(data: Path, model: str | Path, name: str | None, over: Mapping[str, Any]) -> EmbedPlan:
    """Read the data once and settle what the recipe leaves open.

    `name`: a recipe of `recipes/embed` or a TOML file; if not given, `base`, or for raw sentences `simcse` where dev
    rows tell whether it helps. Where none do, and nothing says how to learn from them, raw sentences are not learnt
    from but whitened with: training took away from small encoders (bench/LOG.md). `over`: settings laid over it. Raises
    `SettingsError`, `UnknownName` and what reading raises.
    """
    loaded = load_model(model)
    settings = recipe_settings(name or LABELLED, over, loaded)
    found = read_data(data, settings, loaded)
    blind = found.train.raw and (found.dev is None or found.dev.raw)
    if blind and name is None and not LEARNING_SETTINGS & set(over):
        return _whitening(found, over, loaded)
    if name is None and found.train.raw:
        settings = recipe_settings(RAW, over, loaded)
    chosen = name or (RAW if found.train.raw else LABELLED)
    if settings.rebuild is None and settings.discourse is None:
        settings = dataclasses.replace(settings, loss=settings.loss or default_loss(found.train))
    settings = dataclasses.replace(settings, optim=settings.optim or _optimizer(settings, loaded))
    examples, notes = _examples(found, settings, loaded)
    if _whitened_first(settings, over, loaded):
        embed = dataclasses.replace(settings.encoder, postprocess=(Whiten(power=1.0), Normalise()))
        settings = dataclasses.replace(settings, encoder=embed, whiten_before_training=True)
        notes.append(WHITENED)
    chose = settings.batch is None
    settings = dataclasses.replace(settings, batch=(batch := settings.batch_size_for(len(examples))))
    epochs = settings.epochs or default_epochs(len(examples))
    said = merge_tables(load_recipe("embed", chosen).get("train", {}), over.get("train", {}))
    filled = {key: value for key, value in evaluation_settings(examples, epochs).items() if key not in said}
    if "budget" not in said:
        filled |= settings_for_epochs(examples, min(batch, len(examples)), epochs)
        settings = dataclasses.replace(settings, epochs=epochs)
    train = merge_tables(encode(settings.train), filled)
    settings = dataclasses.replace(settings, train=decode(type(settings.train), train, "train"))
    why = " (chosen by the number of examples)" if chose else ""
    notes.append(f"{_what(settings)}, {batch} examples a step{why}, budget {settings.train.budget}")
    notes += [UNTOLD] if blind else []
    inputs = {"model": str(Path(loaded.path).resolve()), "data": str(data.resolve())}
    recipe = Recipe(job=job_of(settings), inputs=inputs, settings=settings, name=chosen)
    return EmbedPlan(recipe, settings, notes)


def evaluation_settings(lengths: np.ndarray, epochs: float) -> dict[str, Any]:
    """The `train` settings by which examples of these lengths (E,) are judged on dev rows in so many epochs: every
    score is taken, so that which weights are the best does not depend on the clock, and a run ends early where half of
    all its scores have passed without a higher one."""
    evals = min(max(round(epochs), EVALS), MOST_EVALS)
    tokens = int(float(lengths.sum()) * epochs * SCORED / evals)
    return {
        "eval_time_fraction": 0.99,
        "evals": evals,
        "eval_tokens": min(max(tokens, LEAST_TOKENS), MOST_TOKENS),
        "patience": evals // 2,
    }


def _whitening(found: EmbedData, over: Mapping[str, Any], loaded: LoadedModel) -> EmbedPlan:
    """Raises `SettingsError` for settings of a training that there is none of."""
    strange = sorted(set(over) - {"encoder", "columns", "truncate", "train"})
    strange += [f"train.{name}" for name in over.get("train", {}) if name != "seed"]
    if strange:
        raise SettingsError(
            f"{', '.join(strange)}: of raw sentences alone nothing is trained unless it is said how: --recipe "
            "simcse, mirror, tsdae or discsent, or a loss."
        )
    settings = recipe_settings(
        LABELLED, merge_tables({"encoder": {"postprocess": ["whiten", "normalise"]}}, over), loaded
    )
    return EmbedPlan(None, settings, [*found.notes, UNTRAINED], found.train.columns[0], found.test)


def _whitened_first(settings: EmbedTraining, over: Mapping[str, Any], loaded: LoadedModel) -> bool:
    """Whether vectors begin as those of a model that was never trained to have them compared, all much alike, and are
    to be learned from how alike texts are: then they are whitened first (bench/LOG.md), unless it is said how."""
    scored = settings.kind == "dense" and settings.loss is not None and settings.loss.target_kind == "score"
    said = "whiten_before_training" in over or settings.encoder.postprocess != DenseSettings().postprocess
    return scored and not said and "dense" not in loaded.settings


def job_of(settings: EmbedTraining) -> str:
    """The job that such settings are for. Raises `SettingsError` for sparse or token vectors without a loss."""
    if settings.loss is None and (settings.rebuild or settings.discourse) is not None:
        if settings.kind != "dense":
            raise SettingsError(f"kind = '{settings.kind}': learns from a loss; rebuild and discourse are for 'dense'.")
        return DENOISE if settings.rebuild is not None else DISCOURSE
    return JOBS[settings.kind]


def _what(settings: EmbedTraining) -> str:
    if settings.loss is not None:
        return f"loss {name_of(settings.loss)}"
    return "rebuilding texts" if settings.rebuild is not None else "telling how sentences belong together"


def recipe_settings(name: str, over: Mapping[str, Any], loaded: LoadedModel) -> EmbedTraining:
    """A recipe over the model's own embedding settings, with `over` laid on it. Raises `SettingsError`."""
    own = merge_tables(encode(EmbedTraining()), {"encoder": loaded.settings.get("dense", {})})
    base = encode(decode(EmbedTraining, merge_tables(own, load_recipe("embed", name)), f"recipe {name}"))
    return decode(EmbedTraining, merge_tables(base, over), f"recipe {name}")


def _optimizer(settings: EmbedTraining, loaded: LoadedModel) -> Optimizer:
    light = settings.adapt is not None and settings.adapt.parameter_efficient
    return default_optimizer(loaded.model.settings.width, light)


def _examples(found: EmbedData, settings: EmbedTraining, loaded: LoadedModel) -> tuple[np.ndarray, list[str]]:
    """Tokens of each training example (E,), and notes with what was cut."""
    notes = list(found.notes)
    data = found.train
    if settings.loss is not None:
        data = prepare_for_loss(data, settings.loss)
    elif settings.discourse is not None:
        made = sentence_windows(data, settings.discourse)
        data = made.data
        notes.append(made.note)
    else:
        data = as_single_texts(data)
    prompts = prompts_of(settings, len(data.columns))
    longest = longest_of(settings.encoder, loaded.model.settings.max_length)
    pool, numbers = TextPool.from_columns(data.columns, prompts, loaded.tokenizer, longest, settings.truncate)
    notes.append(f"{len(data):,} examples of {len(data.columns)} texts, {len(pool.texts):,} different ones")
    if pool.num_truncated:
        notes.append(
            f"{pool.num_truncated:,} texts are longer than {longest} tokens: {pool.dropped:,} tokens cut (truncate = "
            f"{settings.truncate})"
        )
    if pool.has_windows:
        long = pool.num_windows > 1
        notes.append(
            f"{long.sum():,} texts are longer than {longest} tokens: they are read in {pool.num_windows[long].sum():,} "
            "windows whose vectors are averaged (truncate = chunk)"
        )
    return pool.lengths[numbers].sum(1), notes
