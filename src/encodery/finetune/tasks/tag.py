"""A tag for every word of a text of any length: named entities, parts of speech. arXiv:1810.04805

The tag of a word is read at its first token. A long text is read in overlapping windows; each word is tagged in the
window where it is farthest from an edge, so that every word has its context.
Rows are words with their tags (B- and I-, or plain), or texts with spans of characters: `spans` is a list of
{"start", "end", "label"}. Predicted spans have exact character offsets.
Shapes: R rows, E examples (windows), T tokens, U words of a row, C tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import InputError
from encodery.base.settings import check_at_least, check_interval
from encodery.finetune.calibration import softmax
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.labels import ClassWeighting, class_weights, count_labels
from encodery.finetune.heads.layers import ScaledLRLinear
from encodery.finetune.heads.set_metrics import micro_f1
from encodery.finetune.heads.word_spans import (
    OUTSIDE,
    first_tokens,
    join_words,
    span_answer,
    spans_of,
    strip_offsets,
    tag_kind,
    tags_of,
    word_spans,
    words_of_span,
)
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, AnswerItem, Rows, RowSchema, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.finetune.windows import dropped_tokens, most_central_window, text_windows
from encodery.metrics.accuracy import Accuracy
from encodery.metrics.f1 import F1
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.windows import Truncate

IGNORE_INDEX = -100


@dataclass(frozen=True, kw_only=True)
class SequenceTagging(Task):
    """Predict a tag for every word.

    `scheme`: "bio" learns where spans begin; "io" only which words are inside, which suits few rows. `overlap`: tokens
    that neighbouring windows share. `dropout` before the linear map; `head_lr_scale`: its learning rate relative to the
    model's; `class_weights` as in `classify`. Use it for entities of types that the training rows have:

        encodery finetune tag conll.txt --model run --out ner
        # a row: {"tokens": ["Ada", "met", "Charles"], "tags": ["B-PER", "O", "B-PER"]}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (RowSchema(("tokens",), ("tags",)), RowSchema(("text",), ("spans",)))
    selection_metric: ClassVar[str] = "f1"
    truncate: ClassVar[Truncate] = "chunk"

    scheme: Literal["bio", "io"] = "bio"
    overlap: int = 128
    dropout: float = 0.1
    head_lr_scale: float = 10.0
    class_weights: ClassWeighting = "none"

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "dropout")
        check_interval(self, "0 < x", "head_lr_scale")
        check_at_least(self, 0, "overlap")

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        tag_lists = self._tags(rows)
        labels, counts = count_labels(tag for tags in tag_lists for tag in self._learned(tags))
        if len(labels) < 2:
            raise InputError(f"There is nothing to distinguish: the tags are {', '.join(labels) or 'none'}.")
        return TaskMetadata(labels=tuple(labels), counts=tuple(map(float, counts)), tag_kind=tag_kind(tag_lists))

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        index_of = {label: index for index, label in enumerate(metadata.labels)}
        tags = self._tags(rows) if with_targets else None
        builder, dropped = ExampleBuilder(preprocessor.uses_segments), []
        for row, (text, words) in enumerate(_texts(rows)):
            ids, offsets = preprocessor.tokenizer.encode_with_offsets(text)
            windows = text_windows(row, len(ids), preprocessor.text_budget, self.overlap, preprocessor)
            dropped.append(dropped_tokens(len(ids), windows))
            first = first_tokens(strip_offsets(text, offsets), words)
            word_of, window_of = _word_of_token(first, len(ids)), most_central_window(len(ids), windows)
            targets = None if tags is None else _tag_indices(self._learned(tags[row]), index_of, row)
            for number, (start, stop) in enumerate(windows):
                word = np.where(window_of[start:stop] == number, word_of[start:stop], -1)
                marks = {"word": np.concatenate([[-1], word, [-1]]).astype(np.int32)}
                if targets is not None:
                    label = np.where(word >= 0, targets[word] if len(targets) else IGNORE_INDEX, IGNORE_INDEX)
                    marks["label"] = np.concatenate([[IGNORE_INDEX], label, [IGNORE_INDEX]]).astype(np.int64)
                builder.add(row, [preprocessor.single(ids.astype(np.int64), start, stop)], None, marks)
        return builder.build(dropped)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _TaggingModule(self, shape.width, metadata)

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        texts = _texts(rows)
        probabilities = [np.zeros((len(words), len(metadata.labels))) for _, words in texts]
        for index, (row, logits) in enumerate(zip(examples.row.tolist(), outputs, strict=True)):
            word = examples.token_mark("word", index)
            probabilities[row][word[word >= 0]] = softmax(logits[word >= 0])
        as_tags = "tokens" in rows
        return [
            self._answer(text, words, own, metadata, as_tags)
            for (text, words), own in zip(texts, probabilities, strict=True)
        ]

    def _answer(
        self, text: str, words: np.ndarray, probabilities: np.ndarray, metadata: TaskMetadata, as_tags: bool
    ) -> Answer:
        read = probabilities.sum(1) > 0
        best = [
            metadata.labels[index] if known else OUTSIDE
            for index, known in zip(probabilities.argmax(1), read, strict=True)
        ]
        if metadata.tag_kind == "plain":
            return {"prediction": best, "probability": probabilities.max(1, initial=0.0).tolist()}
        labelled = spans_of(best if self.scheme == "bio" else [_as_inside(tag) for tag in best])
        spans = [
            span_answer(text, words, span, float(probabilities[span[0] : span[1]].max(1).mean())) for span in labelled
        ]
        return {"prediction": tags_of(labelled, len(words)) if as_tags else spans, "spans": spans}

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        if metadata.tag_kind == "plain":
            expected = [tag for tags in self._tags(rows) for tag in tags]
            predicted = [tag for answer in answers for tag in answer["prediction"]]
            return {"accuracy": Accuracy().score(expected, predicted), "f1": F1().score(expected, predicted)}
        return micro_f1(self.answer_items(rows), self.answer_items(rows, answers))

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]]:
        """See `Task`. The items are spans, of words for rows of words, else of characters; or single plain tags."""
        if "tokens" not in rows:
            span_lists = rows["spans"] if answers is None else [answer["spans"] for answer in answers]
            return [{(span["start"], span["end"], str(span["label"])) for span in spans} for spans in span_lists]
        expected = self._tags(rows)
        tag_lists = expected if answers is None else [answer["prediction"] for answer in answers]
        if tag_kind(expected) == "spans":
            return [set(spans_of(tags)) for tags in tag_lists]
        return [{(word, word + 1, tag) for word, tag in enumerate(tags)} for tags in tag_lists]

    def _tags(self, rows: Rows) -> list[list[str]]:
        """Return the tags of each row's words, from its `tags` or its `spans`."""
        if "tokens" in rows:
            tag_lists = [[str(tag) for tag in tags] for tags in rows["tags"]]
            for row, (tags, words) in enumerate(zip(tag_lists, rows["tokens"], strict=True)):
                if len(tags) != len(words):
                    raise InputError(f"Row {row} has {len(words)} words and {len(tags)} tags.")
            return tag_lists
        tag_lists = []
        for row, (text, spans) in enumerate(zip(rows["text"], rows["spans"], strict=True)):
            where = word_spans(text)
            tag_lists.append(tags_of([words_of_span(row, text, where, span) for span in spans], len(where)))
        return tag_lists

    def _learned(self, tags: list[str]) -> list[str]:
        """Return the tags as the model learns them."""
        return tags if self.scheme == "bio" else [tag[2:] if tag[:2] in ("B-", "I-") else tag for tag in tags]


class _TaggingModule(TaskModule):
    granularity = "token"
    is_softmax = True
    class_weights: Tensor

    def __init__(self, task: SequenceTagging, width: int, metadata: TaskMetadata) -> None:
        super().__init__()
        self.dropout = nn.Dropout(task.dropout)
        self.out = ScaledLRLinear(width, len(metadata.labels), task.head_lr_scale)
        weights = torch.tensor(class_weights(metadata.counts, task.class_weights))
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        outputs: Tensor = self.out(self.dropout(output.hidden)).float()
        return outputs

    def counts(self, batch: Batch) -> dict[str, Count]:
        label = batch.extra["label"]
        return {"tags": self.class_weights[label[label >= 0]].sum()}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        positions = (batch.extra["label"] >= 0).nonzero()[:, 0]
        label = batch.extra["label"][positions]
        weight = self.class_weights[label]
        log_probabilities = predicted[positions].log_softmax(-1).gather(1, label[:, None])[:, 0]
        return {"tags": LossTerm(-(weight * log_probabilities).sum(), weight.sum())}


def _texts(rows: Rows) -> list[tuple[str, np.ndarray]]:
    """Return the text of each row and the offsets of its words (U, 2)."""
    if "tokens" in rows:
        return [join_words([str(word) for word in words]) for words in rows["tokens"]]
    return [(text, word_spans(text)) for text in rows["text"]]


def _word_of_token(first: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return (n,) the first word whose tag is read at each token, -1 without one; `first` (U,): token of each word."""
    word_of = np.full(num_tokens, -1, np.int64)
    words = np.flatnonzero(first >= 0)[::-1]
    word_of[first[words]] = words
    return word_of


def _tag_indices(tags: Sequence[str], index_of: Mapping[str, int], row: int) -> np.ndarray:
    for tag in tags:
        if tag not in index_of:
            raise InputError(f"Row {row}: tag '{tag}' is not one of the {len(index_of)} of training.")
    return np.array([index_of[tag] for tag in tags], np.int64)


def _as_inside(tag: str) -> str:
    return tag if tag == OUTSIDE else f"I-{tag}"
