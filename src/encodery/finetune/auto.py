"""As little training as pays: a linear head on the frozen model, then LoRA, then the whole model, by cross-validation.

Logistic regression on what a head reads of the frozen encoder takes seconds and is hard to beat where rows are few. The
next stage is trained on the same folds, and taken only if more of the rows that were held out are answered right by
it, by a point at least and by more than chance would make of it (a one-sided test of the paired differences).
A head that was fitted so is an ordinary `classify` or `pair` head: its artifact is like any other.
Shapes: R rows, F features that a head reads, C classes.
"""

from __future__ import annotations

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
from encodery.base.settings import encode, merge
from encodery.finetune.data import Data, read
from encodery.finetune.job import LINEAR, FinetuneJob, reader_of, states
from encodery.finetune.planning import plan, recipe_of, whole
from encodery.finetune.predict import Predictor
from encodery.finetune.settings import FinetuneSettings, first_read
from encodery.finetune.tasks import Known, Rows
from encodery.finetune.tasks._classes import Classes
from encodery.finetune.tasks._head import HeadedModule
from encodery.finetune.tasks._labels import names_of, places
from encodery.model.load import Loaded, load_model
from encodery.model.shape import Batch, Output
from encodery.rows.split import keys
from encodery.rows.table import Table
from encodery.tokens.windows import batches
from encodery.train.distributed import Team
from encodery.train.launch import check_empty, start
from encodery.train.loop import FIGURES, MODEL, RECIPE

FOLDS = 3
MOST_ROWS = 2000  # by which the stage is chosen
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
LEAST_GAIN, SURE = 0.01, 1.64
Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Chosen:
    """`stage` linear, lora or full; `right`: share of held-out rows each stage that was tried got right; `figures` of
    the finished model."""

    stage: str
    right: dict[str, float]
    figures: dict[str, Any] = field(default_factory=dict)


def auto(
    task: str, data: str | Path, model: str | Path, over: Mapping[str, Any], out: Path, tell: Told = lambda _: None
) -> Chosen:
    """Choose a stage, train it on all training rows, and write the run folder `out`; `tell` gets what was found.

    Raises `SettingsError` for a task that is not one class for a text, and where `adapt` is set, which is chosen here.
    """
    check_empty(out)
    early = first_read(task, over)
    if not isinstance(early.task, Classes) or early.task.hidden or early.task.pooling != "mean":
        raise SettingsError(f"auto: is for classify and pair with mean pooling and no hidden layer, not {task} so set.")
    if early.adapt is not None:
        raise SettingsError("adapt: is what `auto` chooses; leave it out.")
    loaded, found = load_model(model), read(data, early)
    for note in found.notes:
        tell(note)
    linear = _Linear(early, loaded)
    folds = _folds(found.train, derive_seed(early.train.seed, "folds"))
    correct = {LINEAR: linear.judged(folds)}
    stage = LINEAR
    for name, adapt in (("lora", encode(Lora())), ("full", None)):
        tell(f"{stage}: {correct[stage].mean():.1%} of {len(correct[stage]):,} held-out rows right; trying {name}")
        correct[name] = _trained(task, merge(over, {} if adapt is None else {"adapt": adapt}), loaded, folds)
        if not pays(correct[stage], correct[name]):
            tell(f"{name}: {correct[name].mean():.1%}; that does not pay")
            break
        stage = name
    right = {name: float(values.mean()) for name, values in correct.items()}
    tell(f"{stage} it is: {right[stage]:.1%} of held-out rows right")
    if stage == LINEAR:
        return Chosen(stage, right, linear.finish(found, data, over, out))
    made = plan(task, data, model, merge(over, {"adapt": encode(Lora())} if stage == "lora" else {}))
    return Chosen(stage, right, start(made.recipe, out).figures)


def pays(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the rows (R,) that are right after are so many more that a costlier stage pays."""
    gain = after.astype(np.float64) - before.astype(np.float64)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return bool(gain.mean() >= LEAST_GAIN and gain.mean() > SURE * error)


@dataclass(frozen=True, eq=False)
class _Fold:
    kept: Rows
    held: Rows


def _folds(rows: Rows, seed: int) -> list[_Fold]:
    """Equal texts stand on one side; every class stands in what is kept of a fold, or is left out of all."""
    texts = [role for role in rows if role != "label"]
    _, key = np.unique(keys(Table.of(rows), texts), return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(key.max()) + 1)
    some = np.flatnonzero(order[key] < MOST_ROWS)
    place = order[key[some]] % FOLDS
    labels: np.ndarray = np.array(names_of([rows["label"][row] for row in some.tolist()]))
    frequent = [label for label in np.unique(labels) if len(np.unique(place[labels == label])) > 1]
    some, place = some[np.isin(labels, frequent)], place[np.isin(labels, frequent)]
    if len(frequent) < 2:
        raise SettingsError("auto: there are too few rows of each class for cross-validation; name a task instead.")
    return [_Fold(_take(rows, some[place != fold]), _take(rows, some[place == fold])) for fold in range(FOLDS)]


def _take(rows: Rows, numbers: np.ndarray) -> Rows:
    return {role: [values[number] for number in numbers.tolist()] for role, values in rows.items()}


def _trained(task: str, over: Mapping[str, Any], loaded: Loaded, folds: Sequence[_Fold]) -> np.ndarray:
    """Whether each held-out row is answered right by a model trained without it."""
    over = {key: value for key, value in over.items() if key != "columns"}
    correct = []
    for fold in folds:
        with TemporaryDirectory() as room:
            file = Path(room) / "train.jsonl"
            lines = [dict(zip(fold.kept, values, strict=True)) for values in zip(*fold.kept.values(), strict=True)]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            start(plan(task, file, loaded.path, {**over, "test": 0}).recipe, Path(room) / "run")
            predictor = Predictor.of(load_model(Path(room) / "run"))
            answers = predictor.predict(fold.held).answers
            given = np.array([answer["prediction"] for answer in answers])
            correct.append(given == np.array(names_of(fold.held["label"])))
    return np.concatenate(correct)


class _Linear:
    """Logistic regression on what the head reads (R, F) of the frozen model."""

    def __init__(self, settings: FinetuneSettings, loaded: Loaded) -> None:
        self.settings, self.loaded, self.strength = settings, loaded, STRENGTHS[0]
        assert isinstance(settings.task, Classes)
        self.rate = settings.task.rate
        self.device = machine.device()
        self.model = loaded.model.to(self.device).eval()
        self.reader = reader_of(settings, loaded)

    def judged(self, folds: Sequence[_Fold]) -> np.ndarray:
        """Whether each held-out row is answered right, at the strength that answers most."""
        heads = [self._head(fold.kept) for fold in folds]
        vectors = [
            (self.vectors(*head, fold.kept), self.vectors(*head, fold.held))
            for head, fold in zip(heads, folds, strict=True)
        ]
        best = np.zeros(0)
        for strength in STRENGTHS:
            correct = []
            for fold, (kept, held) in zip(folds, vectors, strict=True):
                labels = sorted(set(names_of(fold.kept["label"])))
                weight, bias = fitted(kept, places(names_of(fold.kept["label"]), labels), strength)
                given = np.array(labels)[(held @ weight.T + bias).argmax(1)]
                correct.append(given == np.array(names_of(fold.held["label"])))
            joined = np.concatenate(correct)
            if not len(best) or joined.mean() > best.mean():
                best, self.strength = joined, strength
        return best

    def finish(self, data: Data, path: str | Path, over: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Write the run folder of a head fitted to all training rows."""
        settings, _ = whole(self.settings, over, self.loaded, data)
        recipe = recipe_of(settings, path, self.loaded.path)
        job = FinetuneJob(settings, self.loaded, data, Team(), self.device, {**recipe, "stage": LINEAR})
        truth = places(names_of(data.train["label"]), job.known["labels"])
        assert isinstance(job.head, HeadedModule)
        weight, bias = fitted(self.vectors(job.head, job.known, data.train), truth, self.strength)
        with torch.no_grad():
            job.head.head.out.weight.copy_(torch.from_numpy(weight / self.rate))
            job.head.head.out.bias.copy_(torch.from_numpy(bias / self.rate))
        out.mkdir(parents=True, exist_ok=True)
        job.save(out / MODEL, {"stage": LINEAR})
        figures = {"stage": LINEAR, "steps": 0, **job.figures()}
        atomic_write(out / RECIPE, json.dumps({**recipe, "stage": LINEAR}, indent=1, ensure_ascii=False) + "\n")
        atomic_write(out / FIGURES, json.dumps(figures, indent=1) + "\n")
        return figures

    def _head(self, rows: Rows) -> tuple[HeadedModule, Known]:
        """A head that has seen these rows, and what is known of them."""
        task = self.settings.task
        known = task.study(rows, self.loaded.tokenizer)
        module = task.build(self.model.settings.shape, known).to(self.device)
        assert isinstance(module, HeadedModule)

        def seen() -> Iterator[tuple[Output, Batch]]:
            examples = task.prepare(rows, self.reader, known, False)
            return states(self.model, examples, self.device, self.settings.train)

        module.fit(seen)
        return module, known

    def vectors(self, module: HeadedModule, known: Known, rows: Rows) -> np.ndarray:
        """(R, F) what the head reads of each row, over its windows by their lengths."""
        examples = self.settings.task.prepare(rows, self.reader, known, False)
        module.eval()
        found = np.zeros((len(examples), module.head.out.in_features))
        with torch.inference_mode():
            for numbers in batches(examples.lengths, self.settings.train.micro_tokens):
                batch = examples.batch(numbers).to(self.device)
                found[numbers] = module.head.features(self.model(batch).hidden, batch).cpu().numpy()
        weights = examples.lengths / np.bincount(examples.row, weights=examples.lengths)[examples.row]
        joined = np.zeros((examples.rows, found.shape[1]))
        np.add.at(joined, examples.row, found * weights[:, None])
        return joined


def fitted(vectors: np.ndarray, truth: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, F) and bias (C,) of a softmax over classes, fitted to standardised vectors (R, F) and put back to
    plain ones. Raises `MissingExtra` without scikit-learn."""
    linear = require("sklearn.linear_model", "finetune")
    mean, spread = vectors.mean(0), vectors.std(0) + 1e-6
    model = linear.LogisticRegression(C=strength, max_iter=2000).fit((vectors - mean) / spread, truth)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # of two classes it keeps the difference alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)
