"""A tag for every word of a text of any length: named entities, parts of speech. arXiv:1810.04805

A word's tag is read at its first piece. Long texts are read in overlapping windows; each word is judged in the window
where it stands farthest from an edge, so that a text in windows is tagged as if every word had its context.
Rows are words with their tags (B- and I-, or plain), or texts with spans in characters: `spans` is a list of
{"start", "end", "label"}. Spans come back with the exact characters they stand at.
Shapes: E examples (windows), T tokens, U words of a row, C tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import InputError, SettingsError
from encodery.finetune import calibrate
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.labels import ClassWeighting, class_weights, count_labels
from encodery.finetune.heads.pooled import ScaledLRLinear, check_dropout, check_lr_scale
from encodery.finetune.heads.set_metrics import micro_f1
from encodery.finetune.heads.word_spans import (
    OUTSIDE,
    first_tokens,
    join_words,
    spans_of,
    strip_offsets,
    tag_kind,
    tags_of,
    word_spans,
)
from encodery.finetune.preprocess import Preprocessor, most_central_window, overlapping_windows
from encodery.finetune.tasks import Answer, AnswerItem, Rows, RowSchema, Task, TaskMetadata, TaskModule
from encodery.metrics.accuracy import Accuracy
from encodery.metrics.f1 import F1
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.windows import Truncate

IGNORE_INDEX = -100


@dataclass(frozen=True, kw_only=True)
class SequenceTagging(Task):
    """`scheme`: "bio" learns where spans begin, "io" only what is inside, which suits few rows. `overlap`: tokens that
    neighbouring windows share. `dropout` before the linear map, which learns `rate` times as fast as the model;
    `weights` as in `classify`."""

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("tokens",), ("tags",)), RowSchema(("text",), ("spans",)))
    selection_metric: ClassVar[str] = "f1"
    truncate: ClassVar[Truncate] = "chunk"

    scheme: Literal["bio", "io"] = "bio"
    overlap: int = 128
    dropout: float = 0.1
    head_lr_scale: float = 10.0
    class_weights: ClassWeighting = "none"

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_lr_scale(self.head_lr_scale)
        if self.overlap < 0:
            raise SettingsError(f"overlap = {self.overlap}: must not be negative.")

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        given = self._tags(rows)
        labels, counts = count_labels(tag for tags in given for tag in self._learnt(tags))
        if len(labels) < 2:
            raise InputError(f"There is nothing to tell apart: the tags are {', '.join(labels) or 'none'}.")
        return {"labels": labels, "counts": counts, "kind": tag_kind(given)}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        at = {label: place for place, label in enumerate(metadata["labels"])}
        tags = self._tags(rows) if with_targets else None
        collector, dropped = ExampleBuilder(preprocessor.uses_segments), []
        for row, (text, where) in enumerate(_texts(rows)):
            ids, offsets = preprocessor.tokenizer.encode_with_offsets(text)
            found = [(0, len(ids))]
            if preprocessor.truncate == "chunk":
                found = overlapping_windows(len(ids), preprocessor.text_budget, self.overlap)
            elif len(ids) > preprocessor.text_budget:
                preprocessor.check_fits(row, len(ids), preprocessor.text_budget)
                over = len(ids) - preprocessor.text_budget
                found = [(over, len(ids))] if preprocessor.truncate == "left" else [(0, preprocessor.text_budget)]
            dropped.append(len(ids) - found[-1][1] + found[0][0])
            speaker = first_tokens(strip_offsets(text, offsets), where)
            owner, homes = _owners(speaker, len(ids)), most_central_window(len(ids), found)
            learnt = None if tags is None else _places(self._learnt(tags[row]), at, row)
            for number, (start, stop) in enumerate(found):
                unit = np.where(homes[start:stop] == number, owner[start:stop], -1)
                marks = {"unit": np.concatenate([[-1], unit, [-1]]).astype(np.int32)}
                if learnt is not None:
                    label = np.where(unit >= 0, learnt[unit] if len(learnt) else IGNORE_INDEX, IGNORE_INDEX)
                    marks["label"] = np.concatenate([[IGNORE_INDEX], label, [IGNORE_INDEX]]).astype(np.int64)
                collector.add(row, [preprocessor.single(ids.astype(np.int64), start, stop)], None, marks)
        return collector.build(dropped)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _TagModule(self, shape.width, metadata)

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        texts = _texts(rows)
        chances = [np.zeros((len(where), len(metadata["labels"]))) for _, where in texts]
        for number, (row, found) in enumerate(zip(examples.row.tolist(), outputs, strict=True)):
            unit = examples.token_mark("unit", number)
            chances[row][unit[unit >= 0]] = calibrate.softmax(found[unit >= 0])
        words = "tokens" in rows
        return [
            self._answer(text, where, row, metadata, words) for (text, where), row in zip(texts, chances, strict=True)
        ]

    def _answer(self, text: str, where: np.ndarray, chances: np.ndarray, known: TaskMetadata, words: bool) -> Answer:
        seen = chances.sum(1) > 0
        best = [known["labels"][place] if s else OUTSIDE for place, s in zip(chances.argmax(1), seen, strict=True)]
        if known["kind"] == "plain":
            return {"prediction": best, "probability": chances.max(1, initial=0.0).tolist()}
        found = spans_of(best if self.scheme == "bio" else [_marked(tag) for tag in best])
        spans = [
            {
                "start": int(where[start, 0]),
                "end": int(where[stop - 1, 1]),
                "label": label,
                "text": text[where[start, 0] : where[stop - 1, 1]],
                "probability": float(chances[start:stop].max(1).mean()),
            }
            for start, stop, label in found
        ]
        return {"prediction": tags_of(found, len(where)) if words else spans, "spans": spans}

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        if metadata["kind"] == "plain":
            truth = [tag for tags in self._tags(rows) for tag in tags]
            given = [tag for answer in answers for tag in answer["prediction"]]
            return {"accuracy": Accuracy().score(truth, given), "f1": F1().score(truth, given)}
        return micro_f1(self.answer_items(rows), self.answer_items(rows, answers))

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]]:
        """See `Task`: spans in words where rows are words, else in characters; tags that mark no spans stand alone."""
        if "tokens" not in rows:
            spans = rows["spans"] if answers is None else [answer["spans"] for answer in answers]
            return [{(s["start"], s["end"], str(s["label"])) for s in some} for some in spans]
        told = self._tags(rows) if answers is None else [answer["prediction"] for answer in answers]
        if tag_kind(self._tags(rows)) == "spans":
            return [set(spans_of(tags)) for tags in told]
        return [{(place, place + 1, tag) for place, tag in enumerate(tags)} for tags in told]

    def _tags(self, rows: Rows) -> list[list[str]]:
        """The tags of each row's words, as they stand in the rows or as its spans say."""
        if "tokens" in rows:
            found = [[str(tag) for tag in tags] for tags in rows["tags"]]
            for row, (tags, words) in enumerate(zip(found, rows["tokens"], strict=True)):
                if len(tags) != len(words):
                    raise InputError(f"Row {row}: has {len(words)} words and {len(tags)} tags.")
            return found
        told = list[list[str]]()
        for row, (text, spans) in enumerate(zip(rows["text"], rows["spans"], strict=True)):
            where = word_spans(text)
            found_spans = []
            for span in spans:
                inside = np.flatnonzero((where[:, 1] > span["start"]) & (where[:, 0] < span["end"]))
                if not 0 <= span["start"] < span["end"] <= len(text) or not len(inside):
                    raise InputError(f"Row {row}: there is no text at characters {span['start']} to {span['end']}.")
                found_spans.append((int(inside[0]), int(inside[-1]) + 1, str(span["label"])))
            told.append(tags_of(found_spans, len(where)))
        return told

    def _learnt(self, tags: list[str]) -> list[str]:
        """The tags as the model learns them."""
        return tags if self.scheme == "bio" else [tag[2:] if tag[:2] in ("B-", "I-") else tag for tag in tags]


class _TagModule(TaskModule):
    granularity = "token"
    class_weights: Tensor

    def __init__(self, settings: SequenceTagging, width: int, known: TaskMetadata) -> None:
        super().__init__()
        self.drop = nn.Dropout(settings.dropout)
        self.out = ScaledLRLinear(width, len(known["labels"]), settings.head_lr_scale)
        told = torch.tensor(class_weights(known["counts"], settings.class_weights))
        self.register_buffer("class_weights", told, persistent=False)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        y: Tensor = self.out(self.drop(output.hidden)).float()
        return y

    def counts(self, batch: Batch) -> dict[str, Count]:
        label = batch.extra["label"]
        return {"tags": self.class_weights[label[label >= 0]].sum()}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        rows = (batch.extra["label"] >= 0).nonzero()[:, 0]
        label = batch.extra["label"][rows]
        weight = self.class_weights[label]
        logs = predicted[rows].log_softmax(-1).gather(1, label[:, None])[:, 0]
        return {"tags": LossTerm(-(weight * logs).sum(), weight.sum())}


def _texts(rows: Rows) -> list[tuple[str, np.ndarray]]:
    """The text of each row and where its words stand (U, 2)."""
    if "tokens" in rows:
        return [join_words([str(word) for word in words]) for words in rows["tokens"]]
    return [(text, word_spans(text)) for text in rows["text"]]


def _owners(speaker: np.ndarray, pieces: int) -> np.ndarray:
    """(n,) the first word that each piece speaks for, -1 where it speaks for none."""
    owner = np.full(pieces, -1, np.int64)
    spoken = np.flatnonzero(speaker >= 0)[::-1]
    owner[speaker[spoken]] = spoken
    return owner


def _places(tags: Sequence[str], at: Mapping[str, int], row: int) -> np.ndarray:
    for tag in tags:
        if tag not in at:
            raise InputError(f"Row {row}: tag '{tag}' is none of the {len(at)} known.")
    return np.array([at[tag] for tag in tags], np.int64)


def _marked(tag: str) -> str:
    return tag if tag == OUTSIDE else f"I-{tag}"
