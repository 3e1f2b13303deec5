"""As little training as is worthwhile: a linear head on the frozen model, then LoRA, then the whole model.

Logistic regression on the features of the frozen encoder takes seconds and is hard to beat with few rows. The next
stage is trained on the same folds of a cross-validation, and is chosen only if it answers more of the held-out rows
right: by one percentage point at least, and significantly so (a one-sided test of the paired differences).
A head fitted in this way is an ordinary `classify` or `pair` head with an ordinary artifact.
Shapes: R rows, F features that a head reads, C classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from encodery.adapt.lora import Lora
from encodery.base import machine
from encodery.base.artifact import atomic_write
from encodery.base.errors import SettingsError
from encodery.base.extras import require
from encodery.base.machine import derive_seed
from encodery.base.settings import encode, merge_tables
from encodery.finetune.data import LabelledData, read_data
from encodery.finetune.generations import write_rows
from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.heads.labels import label_indices, label_names
from encodery.finetune.heads.pooled import HeadedModule
from encodery.finetune.heads.windowed_rows import mean_over_windows
from encodery.finetune.job import LINEAR_STAGE, FinetuneJob, encoded_sample
from encodery.finetune.planning import FinetunePlan, Reporter, plan_finetuning, plan_prepared
from encodery.finetune.predict import Predictor
from encodery.finetune.prepared import prepare_data, preprocessor_for
from encodery.finetune.settings import FinetuneSettings, initial_settings
from encodery.finetune.task_types import Rows, TaskMetadata
from encodery.model.load import LoadedModel, load_model
from encodery.model.shape import Batch, Output
from encodery.rows.split import row_keys
from encodery.rows.table import Table
from encodery.tokens.windows import batches_by_length
from encodery.train.distributed import DistributedContext
from encodery.train.launch import check_empty, start
from encodery.train.loop import METRICS, MODEL

NUM_FOLDS = 3
MAX_ROWS = 2000
"""Most rows on which the stages are compared."""
INVERSE_REGULARISATION = (0.01, 0.1, 1.0, 10.0)
MIN_GAIN, Z_CRITICAL = 0.01, 1.64


@dataclass(frozen=True, eq=False)
class StageSelection:
    """`stage`: linear, lora or full. `accuracy`: stage → fraction of the held-out rows that it answers right, for the
    stages that were tried. `metrics` of the finished model."""

    stage: str
    accuracy: dict[str, float]
    metrics: dict[str, Any] = field(default_factory=dict)


def auto(
    task: str,
    data: str | Path,
    model: str | Path,
    overrides: Mapping[str, Any],
    out: Path,
    report: Reporter = lambda _: None,
) -> StageSelection:
    """Choose a stage, train it on all training rows and write the run folder `out`.

    `report` is called with messages about data and stages.
    Raises `SettingsError` for other tasks than `classify` and `pair` with mean pooling and no dense layer, and if
    `adapt` is set, which is chosen here.
    """
    check_empty(out)
    settings = initial_settings(task, overrides)
    if not isinstance(settings.task, ClassificationTask) or settings.task.head_dense or settings.task.pooling != "mean":
        raise SettingsError(
            f"auto: chooses between stages for classify and pair with mean pooling and no dense layer, not for {task} "
            "with these settings."
        )
    if settings.adapt is not None:
        raise SettingsError("adapt: is chosen by `auto`; leave it out.")
    loaded = load_model(model)
    labelled = read_data(data, settings)
    for note in labelled.notes:
        report(note)
    linear = _Linear(settings, loaded)
    folds = _folds(labelled.train, derive_seed(settings.train.seed, "folds"))
    correct = {LINEAR_STAGE: linear.cross_validate(folds)}
    stage = LINEAR_STAGE
    for name, adapt in (("lora", encode(Lora())), ("full", None)):
        count = len(correct[stage])
        report(f"{stage}: {correct[stage].mean():.1%} of {count:,} held-out rows right; now trying {name}")
        stage_overrides = merge_tables(overrides, {} if adapt is None else {"adapt": adapt})
        correct[name] = _cross_validate(task, stage_overrides, loaded, folds)
        if not improves(correct[stage], correct[name]):
            report(f"{name}: {correct[name].mean():.1%}; the gain is too small")
            break
        stage = name
    accuracy = {name: float(values.mean()) for name, values in correct.items()}
    report(f"chosen: {stage}, {accuracy[stage]:.1%} of held-out rows right")
    own: Mapping[str, Any] = merge_tables(overrides, {"adapt": encode(Lora())}) if stage == "lora" else overrides
    plan = _plan(task, own, loaded, labelled, data, model)
    if stage == LINEAR_STAGE:
        return StageSelection(stage, accuracy, linear.finish(plan, out))
    return StageSelection(stage, accuracy, start(plan.recipe, out, build=plan.build).metrics)


def improves(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether enough more rows (R,) are right after than before for the costlier stage to be worthwhile."""
    gain = after.astype(np.float64) - before.astype(np.float64)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return bool(gain.mean() >= MIN_GAIN and gain.mean() > Z_CRITICAL * error)


@dataclass(frozen=True, eq=False)
class _Fold:
    train: Rows
    heldout: Rows


def _folds(rows: Rows, seed: int) -> list[_Fold]:
    """Return the folds. Rows with equal texts are in one fold; a class that is in a single fold only is left out."""
    texts = [role for role in rows if role != "label"]
    _, key = np.unique(row_keys(Table.of(rows), texts), return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(key.max()) + 1)
    sample = np.flatnonzero(order[key] < MAX_ROWS)
    fold_of = order[key[sample]] % NUM_FOLDS
    labels: np.ndarray = np.array(label_names([rows["label"][row] for row in sample.tolist()]))
    frequent = [label for label in np.unique(labels) if len(np.unique(fold_of[labels == label])) > 1]
    sample, fold_of = sample[np.isin(labels, frequent)], fold_of[np.isin(labels, frequent)]
    if len(frequent) < 2:
        raise SettingsError("auto: there are too few rows of each class for cross-validation; name a task instead.")
    return [
        _Fold(_take(rows, sample[fold_of != fold]), _take(rows, sample[fold_of == fold])) for fold in range(NUM_FOLDS)
    ]


def _take(rows: Rows, indices: np.ndarray) -> Rows:
    return {role: [values[index] for index in indices.tolist()] for role, values in rows.items()}


def _plan(
    task: str,
    overrides: Mapping[str, Any],
    loaded: LoadedModel,
    labelled: LabelledData,
    data: str | Path,
    model: str | Path,
) -> FinetunePlan:
    """Return the plan for data that was read already."""
    settings = initial_settings(task, overrides)
    return plan_prepared(settings, overrides, prepare_data(settings, loaded, labelled), data, model)


def _cross_validate(task: str, overrides: Mapping[str, Any], loaded: LoadedModel, folds: Sequence[_Fold]) -> np.ndarray:
    """Return (R,) whether each held-out row is answered right by a model trained without its fold."""
    own = {**{key: value for key, value in overrides.items() if key != "columns"}, "test": 0}
    correct = []
    for fold in folds:
        with TemporaryDirectory() as name:
            folder = Path(name)
            write_rows(folder, {"train": fold.train})
            plan = plan_finetuning(task, folder / "train.jsonl", loaded.path, own)
            start(plan.recipe, folder / "run", build=plan.build)
            answers = Predictor.from_model(load_model(folder / "run")).predict(fold.heldout).answers
            predicted = np.array([answer["prediction"] for answer in answers])
            correct.append(predicted == np.array(label_names(fold.heldout["label"])))
    return np.concatenate(correct)


class _Linear:
    """Logistic regression on the features (R, F) that the head reads of the frozen model."""

    def __init__(self, settings: FinetuneSettings, loaded: LoadedModel) -> None:
        assert isinstance(settings.task, ClassificationTask)
        self.settings, self.loaded, self.inverse_regularisation = settings, loaded, INVERSE_REGULARISATION[0]
        self.lr_scale = settings.task.head_lr_scale
        self.device = machine.device()
        self.model = loaded.model.to(self.device).eval()
        self.preprocessor = preprocessor_for(settings, loaded)

    def cross_validate(self, folds: Sequence[_Fold]) -> np.ndarray:
        """Return (R,) whether each held-out row is answered right, with the best regularisation, which is kept."""
        heads = [self._head(fold.train) for fold in folds]
        features = [
            (self.features(*head, fold.train), self.features(*head, fold.heldout))
            for head, fold in zip(heads, folds, strict=True)
        ]
        best = np.zeros(0)
        for strength in INVERSE_REGULARISATION:
            parts = []
            for fold, (train, heldout) in zip(folds, features, strict=True):
                labels = sorted(set(label_names(fold.train["label"])))
                expected = label_indices(label_names(fold.train["label"]), labels)
                weight, bias = fit_logistic_regression(train, expected, strength)
                predicted = np.array(labels)[(heldout @ weight.T + bias).argmax(1)]
                parts.append(predicted == np.array(label_names(fold.heldout["label"])))
            correct = np.concatenate(parts)
            if not len(best) or correct.mean() > best.mean():
                best, self.inverse_regularisation = correct, strength
        return best

    def finish(self, plan: FinetunePlan, out: Path) -> dict[str, Any]:
        """Fit the head to all training rows, write the run folder and return the metrics."""
        recipe = dataclasses.replace(plan.recipe, stage=LINEAR_STAGE)
        job = FinetuneJob(recipe.settings, plan.prepared, DistributedContext(), self.device, recipe)
        train = plan.prepared.data.train
        expected = label_indices(label_names(train["label"]), job.metadata.labels)
        assert isinstance(job.head, HeadedModule)
        features = self.features(job.head, job.metadata, train)
        weight, bias = fit_logistic_regression(features, expected, self.inverse_regularisation)
        with torch.no_grad():
            job.head.head.out.weight.copy_(torch.from_numpy(weight / self.lr_scale))
            job.head.head.out.bias.copy_(torch.from_numpy(bias / self.lr_scale))
        out.mkdir(parents=True, exist_ok=True)
        job.save(out / MODEL, {"stage": LINEAR_STAGE})
        metrics = {"stage": LINEAR_STAGE, "steps": 0, **job.metrics()}
        recipe.write(out)
        atomic_write(out / METRICS, json.dumps(metrics, indent=1) + "\n")
        return metrics

    def _head(self, rows: Rows) -> tuple[HeadedModule, TaskMetadata]:
        """Return a head that is fitted to the hidden states of these rows, and their metadata."""
        task = self.settings.task
        metadata = task.fit_metadata(rows, self.loaded.tokenizer)
        module = task.build(self.model.settings.shape, metadata).to(self.device)
        assert isinstance(module, HeadedModule)

        def encoded() -> Iterator[tuple[Output, Batch]]:
            examples = task.prepare(rows, self.preprocessor, metadata, False)
            return encoded_sample(self.model, examples, self.device, self.settings.train)

        module.fit(encoded)
        return module, metadata

    def features(self, module: HeadedModule, metadata: TaskMetadata, rows: Rows) -> np.ndarray:
        """Return (R, F) the features of each row: the mean over its windows, weighted by their lengths."""
        examples = self.settings.task.prepare(rows, self.preprocessor, metadata, False)
        module.eval()
        features = np.zeros((len(examples), module.head.out.in_features))
        with torch.inference_mode():
            for indices in batches_by_length(examples.lengths, self.settings.train.micro_batch_tokens):
                batch = examples.batch(indices).to(self.device)
                features[indices] = module.head.features(self.model(batch).hidden, batch).cpu().numpy()
        return mean_over_windows(list(features), examples)


def fit_logistic_regression(
    features: np.ndarray, expected: np.ndarray, inverse_regularisation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight (C, F) and bias (C,) of a softmax over classes, for features (R, F) that are not standardised.

    It is fitted on standardised features. Raises `MissingExtra` without scikit-learn.
    """
    linear = require("sklearn.linear_model", "finetune")
    mean, std = features.mean(0), features.std(0) + 1e-6
    model = linear.LogisticRegression(C=inverse_regularisation, max_iter=2000)
    model.fit((features - mean) / std, expected)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # For two classes scikit-learn stores the difference only.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / std
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)
