"""Classification with logistic regression on frozen embeddings, trained on the train split and evaluated on test.

With `shots`, it is trained on that many examples of each class, drawn `repeats` times, as in MTEB (arXiv:2210.07316). A
head of the model is not used; the suite `task` evaluates heads. Shapes: N test examples, R repeats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.errors import InputError
from encodery.base.settings import check_at_least
from encodery.evaluate import linear
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.suites import Suite
from encodery.evaluate.suites._classes import LabelledTexts, labelled_texts
from encodery.evaluate.suites._heads import note_unused_head
from encodery.evaluate.systems import OpenSystem
from encodery.metrics.f1 import F1
from encodery.rows.columns import assign_roles
from encodery.rows.read import read_tables
from encodery.rows.split import fill_missing_splits

FRACTIONS = {"train": 0.8, "test": 0.2}


@dataclass(frozen=True, eq=False)
class TrainTestTexts:
    """Examples to train on and to evaluate on; the length is that of the latter."""

    train: LabelledTexts
    test: LabelledTexts

    def __len__(self) -> int:
        return len(self.test)


@dataclass(frozen=True, kw_only=True)
class ClassificationSuite(Suite):
    """Use it to compare embeddings by how well classes can be predicted from them.

    If the data has no test or dev split, a fifth of it is used; examples with equal texts are in one split.

    Attributes:
        columns: role -> column, for text and label; others are assigned by name.
        shots: the training examples of each class; None for all.
        repeats: how often they are drawn.
        max_rows: the maximum number of examples of each split, drawn with `seed`.
    """

    columns: dict[str, str] = field(default_factory=dict)
    shots: int | None = None
    repeats: int = 10
    max_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "shots", "repeats", "max_rows")

    @property
    def main_metric(self) -> str:
        return "accuracy"

    def read(self, data: Path) -> TrainTestTexts:
        tables = read_tables(data)
        if "train" not in tables:
            raise InputError(f"{data}: has no train split, only {', '.join(tables)}.")
        heldout = next((name for name in ("test", "dev") if name in tables), None)
        if heldout is None:
            roles = assign_roles(tables["train"], ("text", "label"), self.columns).columns
            tables = fill_missing_splits(tables, (roles["text"],), roles["label"], FRACTIONS, self.seed)
        train, test = (labelled_texts(tables[name], self.columns) for name in ("train", heldout or "test"))
        if len(np.unique(train.labels)) < 2 or not len(test):
            raise InputError(
                f"{data}: training examples of at least two classes, and examples to evaluate on, are needed."
            )
        return TrainTestTexts(self._drawn(train), self._drawn(test))

    def _drawn(self, rows: LabelledTexts) -> LabelledTexts:
        if self.max_rows is None or self.max_rows >= len(rows):
            return rows
        return rows.take(np.sort(np.random.default_rng(self.seed).permutation(len(rows))[: self.max_rows]))

    def measure(self, items: TrainTestTexts, system: OpenSystem) -> dict[str, MetricValue]:
        note_unused_head(system, "probed")
        system.fit(items.train.texts)
        train, test = system.encode(items.train.texts), system.encode(items.test.texts)
        _, labels = np.unique(np.concatenate([items.train.labels, items.test.labels]), return_inverse=True)
        train_labels, truth = labels[: len(items.train)], labels[len(items.train) :]
        predicted = np.stack(
            [
                linear.fit(train[rows], train_labels[rows], self.seed).predict(test)
                for rows in self._draws(train_labels)
            ],
            1,
        )
        accuracy = MetricValue.mean((predicted == truth[:, None]).mean(1))
        return {"accuracy": accuracy, "macro f1": MetricValue.of(macro_f1, truth, predicted)}

    def _draws(self, labels: np.ndarray) -> list[np.ndarray]:
        """Return the training examples of each repeat."""
        if self.shots is None:
            return [np.arange(len(labels))]
        classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        return [
            np.concatenate([np.random.default_rng((self.seed, repeat)).permutation(c)[: self.shots] for c in classes])
            for repeat in range(self.repeats)
        ]


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the macro F1, averaged over the repeats, of truth (N,) and predictions (N, R)."""
    return float(np.mean([F1().score(truth, column) for column in predicted.T]))
