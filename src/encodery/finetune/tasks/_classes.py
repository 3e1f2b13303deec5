"""One of several classes for a text or a pair of texts: a softmax over classes. arXiv:1810.04805

Shapes: R rows, E examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError, SettingsError
from encodery.finetune import calibrate
from encodery.finetune.examples import Examples
from encodery.finetune.reader import Reader
from encodery.finetune.tasks import Answer, Known, Rows, Task, TaskModule
from encodery.finetune.tasks._head import Head, Headed, HeadedModule, by_row, gathered, read
from encodery.finetune.tasks._labels import Weights, count, is_shared, names_of, places, shares, weights
from encodery.metrics.accuracy import Accuracy
from encodery.metrics.f1 import F1
from encodery.metrics.mcc import MCC
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, Term

FEWEST_TUNED = 30  # Rows below which a temperature would be fitted to chance.


@dataclass(frozen=True, kw_only=True)
class Labelled(Task):
    """Answers that are one of the labels, whatever gives the logits (R, C) of rows."""

    goal: ClassVar[str] = "f1"
    chart: ClassVar[Literal["classes", "none"]] = "classes"

    def learn(self, rows: Rows) -> dict[str, Any]:
        labels, counts = count(names_of(rows["label"]))
        if len(labels) < 2:
            what = f"all rows have the label '{labels[0]}'" if labels else "there are no rows"
            raise InputError(f"There is nothing to tell apart: {what}.")
        return {"labels": labels, "counts": counts}

    def logits(self, outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
        """(R, C) of the windows of each row."""
        return by_row(outputs, examples)

    def decode(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, known: Known, tuned: Mapping[str, float]
    ) -> list[Answer]:
        found = calibrate.softmax(self.logits(outputs, examples), tuned.get("temperature", 1.0))
        labels = known["labels"]
        return [
            {
                "prediction": labels[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": dict(zip(labels, row.tolist(), strict=True)),
            }
            for row in found
        ]

    def figures(self, answers: Sequence[Answer], rows: Rows, known: Known) -> dict[str, float]:
        truth, given = names_of(rows["label"]), [answer["prediction"] for answer in answers]
        chances = [answer["probabilities"].get(label, 0.0) for answer, label in zip(answers, truth, strict=True)]
        correct = np.array([a == b for a, b in zip(truth, given, strict=True)])
        sure = np.array([answer["probability"] for answer in answers])
        return {
            "accuracy": Accuracy().score(truth, given),
            "f1": F1().score(truth, given),
            "mcc": MCC().score(truth, given),
            "nll": float(-np.log(np.maximum(chances, 1e-12)).mean()),
            "ece": calibrate.reliability(sure, correct).error,
        }

    def tune(self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, known: Known) -> dict[str, float]:
        truth, labels = names_of(rows["label"]), list(known["labels"])
        kept = np.array([label in labels for label in truth])
        logits = self.logits(outputs, examples)[kept]
        if len(logits) < FEWEST_TUNED:
            return {}
        classes = places([label for label, keep in zip(truth, kept, strict=True) if keep], labels)
        return {"temperature": calibrate.temperature(logits, classes)}


@dataclass(frozen=True, kw_only=True)
class Classes(Labelled, Headed):
    """`pooling`, `hidden` and `dropout` are those of the head, which learns `rate` times as fast as the model.
    `weights`: rare classes count for more in the loss, in inverse proportion ("balanced") or by its root. `smoothing`:
    share of a row's weight that is spread over all classes (arXiv:1512.00567). A training row may have a table of
    labels and their shares in place of one label (arXiv:1503.02531). Smoothing keeps a few hundred rows from being
    learned by heart, by which what pre-training knows gains more than random weights do (bench/LOG.md)."""

    weights: Weights = "none"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.smoothing < 1:
            raise SettingsError(f"smoothing = {self.smoothing}: must lie in 0 <= smoothing < 1.")

    def learn(self, rows: Rows) -> dict[str, Any]:
        if not is_shared(rows["label"]):
            return {**super().learn(rows), **self.matched("text_b" in rows)}
        labels, table = shares(rows["label"])
        if len(labels) < 2:
            raise InputError(f"There is nothing to tell apart: all rows have the label '{labels[0]}'.")
        counts = np.maximum(table.sum(0), 1e-6).tolist()
        return {"labels": labels, "counts": counts, **self.matched("text_b" in rows)}

    def prepare(self, rows: Rows, reader: Reader, known: Known, targets: bool) -> Examples:
        found, dropped = read(rows, reader)
        return gathered(found, dropped, reader, known, self._targets(rows["label"], known) if targets else {})

    def _targets(self, values: Sequence[Any], known: Known) -> dict[str, np.ndarray]:
        """`label` (R,), the likeliest where there are `shares` (R, C)."""
        if not is_shared(values):
            return {"label": places(names_of(values), known["labels"])}
        labels, table = shares(values)
        wide = np.zeros((len(table), len(known["labels"])), np.float32)
        wide[:, places(labels, known["labels"])] = table
        return {"label": wide.argmax(1), "shares": wide}

    def build(self, shape: Shape, known: Known) -> TaskModule:
        return _ClassesModule(self, shape, known)


class _ClassesModule(HeadedModule):
    class_weights: Tensor

    def __init__(self, settings: Classes, shape: Shape, known: Known) -> None:
        super().__init__(Head(shape.width, len(known["labels"]), settings, known))
        self.smoothing = settings.smoothing
        told = torch.tensor(weights(known["counts"], settings.weights))
        self.register_buffer("class_weights", told, persistent=False)

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"classes": self.class_weights[batch.extra["label"]].sum()}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, Term]:
        label = batch.extra["label"]
        logs = predicted.log_softmax(-1)
        weight = self.class_weights[label]
        shared = batch.extra.get("shares")
        told = logs.gather(1, label[:, None])[:, 0] if shared is None else (shared * logs).sum(1)
        each = -(1 - self.smoothing) * told - self.smoothing * logs.mean(1)
        return {
            "classes": Term((weight * each).sum(), weight.sum()),
            "right": Term((predicted.argmax(-1) == label).sum(), len(label), 0.0),
        }
