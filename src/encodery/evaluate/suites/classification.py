"""Classification by a probe: logistic regression on frozen vectors, trained on the training rows, judged on the test.

With `shots`, on so many rows of each class, drawn `repeats` times, as the massive text embedding benchmark does
(arXiv:2210.07316). A head the model may have is not asked: that is the suite `task`. Shapes: N test rows, R repeats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.errors import InputError, SettingsError
from encodery.evaluate import linear
from encodery.evaluate.suites import MetricValue, Suite
from encodery.evaluate.suites._classes import LabelledTexts, labelled_texts
from encodery.evaluate.suites._heads import note_unused_head
from encodery.evaluate.systems import OpenSystem
from encodery.metrics.f1 import F1
from encodery.rows.columns import assign_roles
from encodery.rows.read import read_tables
from encodery.rows.split import fill_missing_splits

SHARES = {"train": 0.8, "test": 0.2}


@dataclass(frozen=True, eq=False)
class TrainTestTexts:
    """Rows to learn from and rows to be judged on; its length is that of the latter."""

    train: LabelledTexts
    test: LabelledTexts

    def __len__(self) -> int:
        return len(self.test)


@dataclass(frozen=True, kw_only=True)
class ClassificationSuite(Suite):
    """`columns`: those of text and label, guessed where not told. `most`: rows of either part, drawn by `seed`.

    Where the data has no test or dev split, a fifth of it is the test: rows of equal text always fall on one side.
    """

    columns: dict[str, str] = field(default_factory=dict)
    shots: int | None = None
    repeats: int = 10
    max_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("shots", "repeats", "max_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} = {value}: must be at least 1.")

    @property
    def main_metric(self) -> str:
        return "accuracy"

    def read(self, data: Path) -> TrainTestTexts:
        held = read_tables(data)
        if "train" not in held:
            raise InputError(f"{data}: has no rows to learn from, only {', '.join(held)}.")
        tested = next((name for name in ("test", "dev") if name in held), None)
        if tested is None:
            roles = assign_roles(held["train"], ("text", "label"), self.columns).columns
            held = fill_missing_splits(held, (roles["text"],), roles["label"], SHARES, self.seed)
        train, test = (labelled_texts(held[name], self.columns) for name in ("train", tested or "test"))
        if len(np.unique(train.labels)) < 2 or not len(test):
            raise InputError(f"{data}: rows of two classes to learn from, and rows to be judged on, are needed.")
        return TrainTestTexts(self._drawn(train), self._drawn(test))

    def _drawn(self, rows: LabelledTexts) -> LabelledTexts:
        if self.max_rows is None or self.max_rows >= len(rows):
            return rows
        return rows.take(np.sort(np.random.default_rng(self.seed).permutation(len(rows))[: self.max_rows]))

    def measure(self, items: TrainTestTexts, system: OpenSystem) -> dict[str, MetricValue]:
        note_unused_head(system, "probed")
        system.fit(items.train.texts)
        vectors, asked = system.encode(items.train.texts), system.encode(items.test.texts)
        _, labels = np.unique(np.concatenate([items.train.labels, items.test.labels]), return_inverse=True)
        taught, truth = labels[: len(items.train)], labels[len(items.train) :]
        guesses = []
        for rows in self._draws(taught):
            guesses.append(linear.fit(vectors[rows], taught[rows], self.seed).predict(asked))
        predicted = np.stack(guesses, 1)
        accuracy = MetricValue.mean((predicted == truth[:, None]).mean(1))
        return {"accuracy": accuracy, "macro f1": MetricValue.of(macro_f1, truth, predicted)}

    def _draws(self, labels: np.ndarray) -> list[np.ndarray]:
        """The training rows of each repeat."""
        if self.shots is None:
            return [np.arange(len(labels))]
        classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        return [
            np.concatenate([np.random.default_rng((self.seed, repeat)).permutation(c)[: self.shots] for c in classes])
            for repeat in range(self.repeats)
        ]


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The mean F1 of all classes that are true or predicted, over the repeats: truth (N,), predicted (N, R)."""
    return float(np.mean([F1().score(truth, column) for column in predicted.T]))
