"""Few labelled rows and many texts: models of single patterns label texts for each other and for a classifier.

PET (arXiv:2001.07676): each pattern of `cloze` trains a model on the labelled rows; together they predict the
probability of each label for every unlabelled text, and a plain classifier learns these soft labels, softened by a
temperature. iPET (the same, and 2009.07118): before that, over generations, each model is trained again on more and
more texts that some of the other models have labelled. One generation is PET. Differs from the papers: one model for
each pattern where they train three, all with equal weight.
Shapes: U unlabelled rows, C labels, M models (one a pattern).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.base.machine import derive_seed
from encodery.base.settings import merge_tables
from encodery.finetune.calibration import softmax
from encodery.finetune.data import LabelledData, num_rows, read_data, read_inputs
from encodery.finetune.heads.labels import label_names
from encodery.finetune.planning import Reporter, plan_finetuning
from encodery.finetune.predict import Predictor
from encodery.finetune.settings import initial_settings
from encodery.finetune.task_types import Rows
from encodery.finetune.tasks.cloze import ClozeClassification
from encodery.model.load import load_model
from encodery.train.launch import check_empty, start

GROWTH_FACTOR = 5
"""How many times as many rows a generation has as the one before."""
LABELLER_FRACTION = 0.25
"""Fraction of the other models that label a model's texts."""
TEMPERATURE = 2.0
"""Temperature of the soft labels that the classifier learns."""
CLASSIFIER = "classifier"


def train_generations(
    data: str | Path,
    unlabelled: str | Path,
    model: str | Path,
    overrides: Mapping[str, Any],
    out: Path,
    generations: int = 3,
    report: Reporter = lambda _: None,
) -> dict[str, Any]:
    """Write the runs `out/generation-N/pattern-M` and `out/classifier`, and return the metrics of the latter.

    The settings of `task` in `overrides` are those of `cloze`; the others apply to all runs. `report` is called with
    messages about data and progress.
    Raises `SettingsError` for fewer than two patterns or one generation, `InputError` if the texts do not have the
    columns of the labelled rows.
    """
    check_empty(out)
    if generations < 1:
        raise SettingsError(f"generations = {generations}: must be at least 1.")
    settings = initial_settings("cloze", overrides)
    assert isinstance(settings.task, ClozeClassification)
    loaded, labelled = load_model(model), read_data(data, settings)
    for note in labelled.notes:
        report(note)
    texts = read_inputs(unlabelled, settings.task, settings.columns)
    if set(texts) != {*labelled.train} - {"label"}:
        raise InputError(f"{unlabelled}: has {', '.join(texts)}; the labelled rows have {', '.join(labelled.train)}.")
    patterns = settings.task.fit_metadata(labelled.train, loaded.tokenizer).patterns
    if len(patterns) < 2:
        raise SettingsError("task.patterns: at least two patterns are needed, whose models label texts for each other.")
    common = {key: value for key, value in overrides.items() if key != "columns"}
    log_probabilities: list[np.ndarray] = []
    labels: list[str] = []
    for generation in range(generations):
        previous, log_probabilities = log_probabilities, []
        for number, pattern in enumerate(patterns):
            folder = out / f"generation-{generation + 1}" / f"pattern-{number + 1}"
            rows: Rows = dict(labelled.train)
            if generation:
                seed = derive_seed(settings.train.seed, "generation", generation, number)
                others = _others_probabilities(previous, number, seed)
                rows = _joined(rows, _label_texts(texts, labels, others, rows, generation, seed))
            own = merge_tables(common, {"task": {"patterns": [pattern]}})
            metrics = _train("cloze", folder, {"train": rows, **_heldout(labelled)}, model, own)
            dev = f", dev accuracy {metrics['tuned_dev_accuracy']:.3f}" if labelled.dev is not None else ""
            report(f"generation {generation + 1}, {pattern}: {num_rows(rows):,} rows{dev}")
            labels, probabilities = label_probabilities(folder / "run", texts)
            log_probabilities.append(np.log(np.maximum(probabilities, 1e-12)))
    task = "pair" if "text_b" in texts else "classify"
    report(f"{task}: {num_rows(texts):,} texts with soft labels of {len(patterns)} models")
    soft = {**texts, "label": soften(labels, log_probabilities)}
    plain = {key: value for key, value in common.items() if key != "task"}
    return _train(task, out / CLASSIFIER, {"train": soft, **_heldout(labelled)}, model, plain)


def soften(labels: Sequence[str], log_probabilities: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Return label → probability for each text, from the log-probabilities (U, C) of each model, at `TEMPERATURE`."""
    probabilities = softmax(np.mean(log_probabilities, axis=0), TEMPERATURE)
    return [dict(zip(labels, row, strict=True)) for row in probabilities.round(6).tolist()]


def label_probabilities(run: Path, texts: Rows) -> tuple[list[str], np.ndarray]:
    """Return the labels of a run's model, and the probability of each for each text (U, C)."""
    predictor = Predictor.from_model(load_model(run))
    predictor.calibration = {}  # As it was trained: few dev rows do not determine a temperature well.
    labels = list(predictor.metadata.labels)
    answers = predictor.predict(texts).answers
    return labels, np.array([[answer["probabilities"][label] for label in labels] for answer in answers])


def draw_texts(probabilities: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Return sorted indices of texts whose most probable label (U, C) is drawn.

    For each label at most `counts` (C) texts are drawn without replacement, weighted by their probability.
    """
    draw, best, highest = np.random.default_rng(seed), probabilities.argmax(1), probabilities.max(1)
    drawn = []
    for label, count in enumerate(counts):
        candidates = np.flatnonzero(best == label)
        count = min(count, len(candidates))
        if count:
            weights = highest[candidates] / highest[candidates].sum()
            drawn.append(draw.choice(candidates, count, replace=False, p=weights))
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)


def write_rows(folder: Path, splits: Mapping[str, Rows]) -> None:
    """Write a folder with one file of JSON lines for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _train(
    task: str, folder: Path, splits: Mapping[str, Rows], model: str | Path, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Write rows to `folder/rows`, train on them in `folder/run` and return the metrics."""
    write_rows(folder / "rows", splits)
    plan = plan_finetuning(task, folder / "rows", model, overrides)
    return start(plan.recipe, folder / "run", build=plan.build).metrics


def _heldout(data: LabelledData) -> dict[str, Rows]:
    return {name: rows for name, rows in (("dev", data.dev), ("test", data.test)) if rows is not None}


def _others_probabilities(log_probabilities: Sequence[np.ndarray], own: int, seed: int) -> np.ndarray:
    """Return (U, C) the joint prediction of some of the other models (M of (U, C)), at least one."""
    others = [number for number in range(len(log_probabilities)) if number != own]
    count = max(1, round(LABELLER_FRACTION * len(others)))
    chosen = np.random.default_rng(seed).choice(others, count, replace=False)
    return softmax(np.mean([log_probabilities[number] for number in chosen], axis=0), 1.0)


def _label_texts(
    texts: Rows, labels: Sequence[str], probabilities: np.ndarray, rows: Rows, generation: int, seed: int
) -> dict[str, list[Any]]:
    """Return texts with their most probable label, in the proportions of the labelled rows.

    With these rows there are `GROWTH_FACTOR` ** generation times as many.
    """
    counts = Counter(label_names(rows["label"]))
    targets = [counts[label] * (GROWTH_FACTOR**generation - 1) for label in labels]
    drawn = draw_texts(probabilities, targets, seed).tolist()
    best = probabilities.argmax(1)
    chosen: dict[str, list[Any]] = {role: [values[row] for row in drawn] for role, values in texts.items()}
    return {**chosen, "label": [labels[best[row]] for row in drawn]}


def _joined(rows: Rows, more: Rows) -> dict[str, list[Any]]:
    return {role: [*values, *more[role]] for role, values in rows.items()}
