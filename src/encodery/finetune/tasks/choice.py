"""One of several answers to a question: each is read with the question, a softmax over their scores. arXiv:1810.04805

Rows may have different numbers of choices. A pair of question and answer that is too long is cut, from the longer
text first. Shapes: E examples (rows), S sequences (choices).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.finetune import calibrate
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.pooled import HeadedModule, HeadedTask, PooledHead, grouped_log_softmax, token_marks
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Answer, Rows, RowSchema, TaskMetadata, TaskModule
from encodery.metrics.accuracy import Accuracy
from encodery.model.shape import Batch, Shape
from encodery.objectives import Count, LossTerm


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(HeadedTask):
    """`label` of a row is the number of the right choice, from 0, or its text; a `context` is read before the
    question. `pooling`, `hidden`, `dropout`, `rate` and `matching` are those of the head (`pair`)."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("context", "question", "choices"), ("label",)),
        RowSchema(("question", "choices"), ("label",)),
        RowSchema(("text", "choices"), ("label",)),
    )
    selection_metric: ClassVar[str] = "accuracy"

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        if not len(rows["choices"]):
            raise InputError("There are no rows to learn from.")
        _right(rows)
        return self.matching_metadata(True)

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        if preprocessor.truncate == "chunk":
            raise InputError("truncate = 'chunk': a choice is one sequence; choose error, right or left.")
        choices = _choices(rows)
        stems = list(rows["question" if "question" in rows else "text"])
        if "context" in rows:
            stems = [f"{context} {stem}".strip() for context, stem in zip(rows["context"], stems, strict=True)]
        owners = [row for row, some in enumerate(choices) for _ in some]
        pieces, lost = preprocessor.encode_pairs(
            [stems[row] for row in owners], [text for some in choices for text in some]
        )
        flat = iter([one for [one] in pieces])
        right = _right(rows) if with_targets else None
        collector = ExampleBuilder(preprocessor.uses_segments)
        for row, some in enumerate(choices):
            told = {} if right is None else {"label": right[row]}
            mine = [next(flat) for _ in some]
            collector.add(row, mine, told, token_marks(mine, metadata))
        return collector.build(np.bincount(owners, weights=lost, minlength=len(choices)).astype(int).tolist())

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _ChoiceModule(PooledHead(shape.width, 1, self, metadata))

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        answers = []
        for scores, choices in zip(outputs, _choices(rows), strict=True):
            found = calibrate.softmax(scores[:, 0][None], calibration.get("temperature", 1.0))[0]
            best = int(found.argmax())
            answers.append({
                "prediction": choices[best],
                "choice": best,
                "probability": float(found[best]),
                "probabilities": found.tolist(),
            })  # fmt: skip
        return answers

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        right = _right(rows)
        chances = [answer["probabilities"][place] for answer, place in zip(answers, right, strict=True)]
        return {
            "accuracy": Accuracy().score(right, [answer["choice"] for answer in answers]),
            "nll": float(-np.log(np.maximum(chances, 1e-12)).mean()),
        }

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        wide = max(map(len, outputs))
        logits = np.full((len(outputs), wide), -1e4)
        for row, scores in enumerate(outputs):
            logits[row, : len(scores)] = scores[:, 0]
        return {"temperature": calibrate.fit_temperature(logits, np.array(_right(rows)))}


class _ChoiceModule(HeadedModule):
    granularity = "sequence"

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"choices": len(batch.extra["sizes"])}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        sizes, label = batch.extra["sizes"], batch.extra["label"]
        group = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes, output_size=len(batch))
        logs = grouped_log_softmax(predicted[:, 0], group, len(sizes))
        return {"choices": LossTerm(-logs[sizes.cumsum(0) - sizes + label].sum(), len(sizes))}


def _choices(rows: Rows) -> list[list[str]]:
    """The choices of each row. Raises `InputError` naming a row that has fewer than two."""
    found = []
    for row, value in enumerate(rows["choices"]):
        some = [str(text) for text in value] if isinstance(value, list | tuple | np.ndarray) else []
        if len(some) < 2:
            raise InputError(f"Row {row}: its choices are {value!r}; a list of at least two texts is needed.")
        found.append(some)
    return found


def _right(rows: Rows) -> list[int]:
    """The number of each row's right choice. Raises `InputError` naming a row whose label is none of its choices."""
    found = []
    for row, (some, label) in enumerate(zip(_choices(rows), rows["label"], strict=True)):
        if str(label) in some:
            found.append(some.index(str(label)))
        elif str(label).isdigit() and int(label) < len(some):
            found.append(int(label))
        else:
            raise InputError(f"Row {row}: label {label!r} is neither one of its choices nor their number, from 0.")
    return found
