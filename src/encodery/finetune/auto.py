"""As little training as pays: a linear head on the frozen model, then LoRA, then the whole model, by cross-validation.

Logistic regression on what a head reads of the frozen encoder takes seconds and is hard to beat where rows are few. The
next stage is trained on the same folds, and taken only if more of the rows that were held out are answered right by
it, by a point at least and by more than chance would make of it (a one-sided test of the paired differences).
A head that was fitted so is an ordinary `classify` or `pair` head: its artifact is like any other.
Shapes: R rows, F features that a head reads, C classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.heads.labels import label_indices, label_names
from encodery.finetune.heads.pooled import HeadedModule
from encodery.finetune.job import LINEAR_STAGE, FinetuneJob, encoded_sample, preprocessor_for
from encodery.finetune.planning import complete_plan, plan_finetuning, recipe_of
from encodery.finetune.predict import Predictor
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
MAX_ROWS = 2000  # by which the stage is chosen
INVERSE_REGULARISATION = (0.01, 0.1, 1.0, 10.0)
MIN_GAIN, Z_CRITICAL = 0.01, 1.64
Reporter = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class StageSelection:
    """`stage` linear, lora or full; `right`: share of held-out rows each stage that was tried got right; `figures` of
    the finished model."""

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
    """Choose a stage, train it on all training rows, and write the run folder `out`; `tell` gets what was found.

    Raises `SettingsError` for a task that is not one class for a text, and where `adapt` is set, which is chosen here.
    """
    check_empty(out)
    early = initial_settings(task, overrides)
    if not isinstance(early.task, ClassificationTask) or early.task.head_dense or early.task.pooling != "mean":
        raise SettingsError(f"auto: is for classify and pair with mean pooling and no hidden layer, not {task} so set.")
    if early.adapt is not None:
        raise SettingsError("adapt: is what `auto` chooses; leave it out.")
    loaded, found = load_model(model), read_data(data, early)
    for note in found.notes:
        report(note)
    linear = _Linear(early, loaded)
    folds = _folds(found.train, derive_seed(early.train.seed, "folds"))
    correct = {LINEAR_STAGE: linear.judged(folds)}
    stage = LINEAR_STAGE
    for name, adapt in (("lora", encode(Lora())), ("full", None)):
        report(f"{stage}: {correct[stage].mean():.1%} of {len(correct[stage]):,} held-out rows right; trying {name}")
        correct[name] = _trained(
            task, merge_tables(overrides, {} if adapt is None else {"adapt": adapt}), loaded, folds
        )
        if not improves(correct[stage], correct[name]):
            report(f"{name}: {correct[name].mean():.1%}; that does not pay")
            break
        stage = name
    right = {name: float(values.mean()) for name, values in correct.items()}
    report(f"{stage} it is: {right[stage]:.1%} of held-out rows right")
    if stage == LINEAR_STAGE:
        return StageSelection(stage, right, linear.finish(found, data, overrides, out))
    made = plan_finetuning(
        task, data, model, merge_tables(overrides, {"adapt": encode(Lora())} if stage == "lora" else {})
    )
    return StageSelection(stage, right, start(made.recipe, out).metrics)


def improves(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the rows (R,) that are right after are so many more that a costlier stage pays."""
    gain = after.astype(np.float64) - before.astype(np.float64)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return bool(gain.mean() >= MIN_GAIN and gain.mean() > Z_CRITICAL * error)


@dataclass(frozen=True, eq=False)
class _Fold:
    kept: Rows
    held: Rows


def _folds(rows: Rows, seed: int) -> list[_Fold]:
    """Equal texts stand on one side; every class stands in what is kept of a fold, or is left out of all."""
    texts = [role for role in rows if role != "label"]
    _, key = np.unique(row_keys(Table.of(rows), texts), return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(key.max()) + 1)
    some = np.flatnonzero(order[key] < MAX_ROWS)
    place = order[key[some]] % NUM_FOLDS
    labels: np.ndarray = np.array(label_names([rows["label"][row] for row in some.tolist()]))
    frequent = [label for label in np.unique(labels) if len(np.unique(place[labels == label])) > 1]
    some, place = some[np.isin(labels, frequent)], place[np.isin(labels, frequent)]
    if len(frequent) < 2:
        raise SettingsError("auto: there are too few rows of each class for cross-validation; name a task instead.")
    return [_Fold(_take(rows, some[place != fold]), _take(rows, some[place == fold])) for fold in range(NUM_FOLDS)]


def _take(rows: Rows, numbers: np.ndarray) -> Rows:
    return {role: [values[number] for number in numbers.tolist()] for role, values in rows.items()}


def _trained(task: str, over: Mapping[str, Any], loaded: LoadedModel, folds: Sequence[_Fold]) -> np.ndarray:
    """Whether each held-out row is answered right by a model trained without it."""
    over = {key: value for key, value in over.items() if key != "columns"}
    correct = []
    for fold in folds:
        with TemporaryDirectory() as room:
            file = Path(room) / "train.jsonl"
            lines = [dict(zip(fold.kept, values, strict=True)) for values in zip(*fold.kept.values(), strict=True)]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            start(plan_finetuning(task, file, loaded.path, {**over, "test": 0}).recipe, Path(room) / "run")
            predictor = Predictor.from_model(load_model(Path(room) / "run"))
            answers = predictor.predict(fold.held).answers
            given = np.array([answer["prediction"] for answer in answers])
            correct.append(given == np.array(label_names(fold.held["label"])))
    return np.concatenate(correct)


class _Linear:
    """Logistic regression on what the head reads (R, F) of the frozen model."""

    def __init__(self, settings: FinetuneSettings, loaded: LoadedModel) -> None:
        self.settings, self.loaded, self.strength = settings, loaded, INVERSE_REGULARISATION[0]
        assert isinstance(settings.task, ClassificationTask)
        self.rate = settings.task.head_lr_scale
        self.device = machine.device()
        self.model = loaded.model.to(self.device).eval()
        self.reader = preprocessor_for(settings, loaded)

    def judged(self, folds: Sequence[_Fold]) -> np.ndarray:
        """Whether each held-out row is answered right, at the strength that answers most."""
        heads = [self._head(fold.kept) for fold in folds]
        vectors = [
            (self.vectors(*head, fold.kept), self.vectors(*head, fold.held))
            for head, fold in zip(heads, folds, strict=True)
        ]
        best = np.zeros(0)
        for strength in INVERSE_REGULARISATION:
            correct = []
            for fold, (kept, held) in zip(folds, vectors, strict=True):
                labels = sorted(set(label_names(fold.kept["label"])))
                weight, bias = fit_logistic_regression(
                    kept, label_indices(label_names(fold.kept["label"]), labels), strength
                )
                given = np.array(labels)[(held @ weight.T + bias).argmax(1)]
                correct.append(given == np.array(label_names(fold.held["label"])))
            joined = np.concatenate(correct)
            if not len(best) or joined.mean() > best.mean():
                best, self.strength = joined, strength
        return best

    def finish(self, data: LabelledData, path: str | Path, over: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Write the run folder of a head fitted to all training rows."""
        settings, _ = complete_plan(self.settings, over, self.loaded, data)
        recipe = dataclasses.replace(recipe_of(settings, path, self.loaded.path), stage=LINEAR_STAGE)
        job = FinetuneJob(settings, self.loaded, data, DistributedContext(), self.device, recipe)
        truth = label_indices(label_names(data.train["label"]), job.metadata.labels)
        assert isinstance(job.head, HeadedModule)
        weight, bias = fit_logistic_regression(self.vectors(job.head, job.metadata, data.train), truth, self.strength)
        with torch.no_grad():
            job.head.head.out.weight.copy_(torch.from_numpy(weight / self.rate))
            job.head.head.out.bias.copy_(torch.from_numpy(bias / self.rate))
        out.mkdir(parents=True, exist_ok=True)
        job.save(out / MODEL, {"stage": LINEAR_STAGE})
        figures = {"stage": LINEAR_STAGE, "steps": 0, **job.metrics()}
        recipe.write(out)
        atomic_write(out / METRICS, json.dumps(figures, indent=1) + "\n")
        return figures

    def _head(self, rows: Rows) -> tuple[HeadedModule, TaskMetadata]:
        """A head that has seen these rows, and what is known of them."""
        task = self.settings.task
        known = task.fit_metadata(rows, self.loaded.tokenizer)
        module = task.build(self.model.settings.shape, known).to(self.device)
        assert isinstance(module, HeadedModule)

        def seen() -> Iterator[tuple[Output, Batch]]:
            examples = task.prepare(rows, self.reader, known, False)
            return encoded_sample(self.model, examples, self.device, self.settings.train)

        module.fit(seen)
        return module, known

    def vectors(self, module: HeadedModule, known: TaskMetadata, rows: Rows) -> np.ndarray:
        """(R, F) what the head reads of each row, over its windows by their lengths."""
        examples = self.settings.task.prepare(rows, self.reader, known, False)
        module.eval()
        found = np.zeros((len(examples), module.head.out.in_features))
        with torch.inference_mode():
            for numbers in batches_by_length(examples.lengths, self.settings.train.micro_batch_tokens):
                batch = examples.batch(numbers).to(self.device)
                found[numbers] = module.head.features(self.model(batch).hidden, batch).cpu().numpy()
        weights = examples.lengths / np.bincount(examples.row, weights=examples.lengths)[examples.row]
        joined = np.zeros((examples.num_rows, found.shape[1]))
        np.add.at(joined, examples.row, found * weights[:, None])
        return joined


def fit_logistic_regression(features: np.ndarray, truth: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, F) and bias (C,) of a softmax over classes, fitted to standardised vectors (R, F) and put back to
    plain ones. Raises `MissingExtra` without scikit-learn."""
    linear = require("sklearn.linear_model", "finetune")
    mean, spread = features.mean(0), features.std(0) + 1e-6
    model = linear.LogisticRegression(C=strength, max_iter=2000).fit((features - mean) / spread, truth)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two classes it keeps the difference alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)
