"""Few labelled rows and many texts: models of single patterns teach each other, a classifier learns from them all.

PET (arXiv:2001.07676): each pattern of `cloze` trains a model on the labelled rows; together they say of every
unlabelled text how likely each label is, and a plain classifier learns these shares, softened by a temperature. iPET
(the same, and 2009.07118): before that, over generations, each model is trained anew on more and more texts that some
of the others have labelled. One generation is PET. Differs from the papers: one model for each pattern where they train
three, all of equal weight.
Shapes: U unlabelled rows, C labels, M models (one a pattern).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.base.machine import derive_seed
from encodery.base.settings import merge_tables
from encodery.finetune import calibrate
from encodery.finetune.data import num_rows, read_data, read_inputs
from encodery.finetune.heads.labels import label_names
from encodery.finetune.planning import plan_finetuning
from encodery.finetune.predict import Predictor
from encodery.finetune.settings import initial_settings
from encodery.finetune.tasks import Rows
from encodery.finetune.tasks.cloze import ClozeClassification
from encodery.model.load import load_model
from encodery.train.launch import check_empty, start

GROWTH_FACTOR = 5  # A generation has so many times the rows of the one before.
LABELLER_FRACTION = 0.25  # Share of the other models that label a model's texts.
TEMPERATURE = 2.0  # Of the shares that the classifier learns.
CLASSIFIER = "classifier"
Reporter = Callable[[str], None]


def train_generations(
    data: str | Path,
    unlabelled: str | Path,
    model: str | Path,
    overrides: Mapping[str, Any],
    out: Path,
    generations: int = 3,
    report: Reporter = lambda _: None,
) -> dict[str, Any]:
    """Write the runs `out/generation-N/pattern-M` and `out/classifier`, and return the figures of the latter; `tell`
    gets what was found. Settings `over` of the task are of `cloze`, the others of all runs.

    Raises `SettingsError` for fewer than two patterns or no generation, `InputError` for rows that do not fit.
    """
    check_empty(out)
    if generations < 1:
        raise SettingsError(f"generations = {generations}: must be at least 1.")
    early = initial_settings("cloze", overrides)
    assert isinstance(early.task, ClozeClassification)
    loaded, found = load_model(model), read_data(data, early)
    for note in found.notes:
        report(note)
    texts = read_inputs(unlabelled, early.task, early.columns)
    if set(texts) != {*found.train} - {"label"}:
        raise InputError(f"{unlabelled}: has {', '.join(texts)}, the labelled rows {', '.join(found.train)}.")
    patterns = early.task.fit_metadata(found.train, loaded.tokenizer)["patterns"]
    if len(patterns) < 2:
        raise SettingsError("task.patterns: at least two are needed, whose models teach each other.")
    rest = {key: value for key, value in overrides.items() if key != "columns"}
    held: dict[str, Rows] = {
        name: rows for name, rows in (("dev", found.dev), ("test", found.test)) if rows is not None
    }
    logs: list[np.ndarray] = []
    labels: list[str] = []
    for generation in range(generations):
        before, logs = logs, []
        for number, pattern in enumerate(patterns):
            folder = out / f"generation-{generation + 1}" / f"pattern-{number + 1}"
            rows: Rows = dict(found.train)
            if generation:
                seed = derive_seed(early.train.seed, "generation", generation, number)
                rows = _joined(rows, _labelled(texts, labels, _asked(before, number, seed), rows, generation, seed))
            everything: dict[str, Rows] = {"train": rows, **held}
            write_rows(folder / "rows", everything)
            own = merge_tables(rest, {"task": {"patterns": [pattern]}})
            figures = start(plan_finetuning("cloze", folder / "rows", model, own).recipe, folder / "run").metrics
            score = f", dev accuracy {figures['tuned_dev_accuracy']:.3f}" if "dev" in held else ""
            report(f"generation {generation + 1}, {pattern}: {num_rows(rows):,} rows{score}")
            labels, chances = label_probabilities(folder / "run", texts)
            logs.append(np.log(np.maximum(chances, 1e-12)))
    soft = {**texts, "label": soften(labels, logs)}
    write_rows(out / CLASSIFIER / "rows", {"train": soft, **held})
    task = "pair" if "text_b" in texts else "classify"
    report(f"{task}: {num_rows(texts):,} texts with the shares of {len(patterns)} models")
    plain = {key: value for key, value in rest.items() if key != "task"}
    return start(
        plan_finetuning(task, out / CLASSIFIER / "rows", model, plain).recipe, out / CLASSIFIER / "run"
    ).metrics


def soften(labels: Sequence[str], log_probabilities: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """Of the logarithms (U, C) of each model's probabilities: label -> share for each text, at the temperature."""
    shares = calibrate.softmax(np.mean(log_probabilities, axis=0), TEMPERATURE)
    return [dict(zip(labels, row, strict=True)) for row in shares.round(6).tolist()]


def label_probabilities(run: Path, texts: Rows) -> tuple[list[str], np.ndarray]:
    """The labels, and how likely each is for each text (U, C), by the model of a run."""
    predictor = Predictor.from_model(load_model(run))
    predictor.calibration = {}  # As it was trained: few dev rows say little about a temperature.
    labels = list(predictor.metadata["labels"])
    answers = predictor.predict(texts).answers
    return labels, np.array([[answer["probabilities"][label] for label in labels] for answer in answers])


def draw_texts(probabilities: np.ndarray, counts: Sequence[int], seed: int) -> np.ndarray:
    """Numbers of texts (in order) for which a label is most likely (U, C): so many `wanted` (C) of each label as there
    are, drawn as often as they are likely."""
    draw, best, sure = np.random.default_rng(seed), probabilities.argmax(1), probabilities.max(1)
    found = []
    for label, count in enumerate(counts):
        some = np.flatnonzero(best == label)
        count = min(count, len(some))
        if count:
            found.append(draw.choice(some, count, replace=False, p=sure[some] / sure[some].sum()))
    return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)


def write_rows(folder: Path, splits: Mapping[str, Rows]) -> None:
    """A folder of JSON lines, a file for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _asked(logs: Sequence[np.ndarray], own: int, seed: int) -> np.ndarray:
    """(U, C) what some of the other models (M of (U, C)), at least one, say together."""
    others = [number for number in range(len(logs)) if number != own]
    count = max(1, round(LABELLER_FRACTION * len(others)))
    chosen = np.random.default_rng(seed).choice(others, count, replace=False)
    return calibrate.softmax(np.mean([logs[number] for number in chosen], axis=0), 1.0)


def _labelled(
    texts: Rows, labels: Sequence[str], chances: np.ndarray, rows: Rows, generation: int, seed: int
) -> dict[str, list[Any]]:
    """Texts with their likeliest label, in the proportions of the labelled rows, `GROWTH` ** generation times as many
    rows with these together."""
    counts = Counter(label_names(rows["label"]))
    some = draw_texts(chances, [counts[label] * (GROWTH_FACTOR**generation - 1) for label in labels], seed).tolist()
    best = chances.argmax(1)
    return {**{role: [values[row] for row in some] for role, values in texts.items()},
            "label": [labels[best[row]] for row in some]}  # fmt: skip


def _joined(rows: Rows, more: Rows) -> dict[str, list[Any]]:
    return {role: [*values, *more[role]] for role, values in rows.items()}
