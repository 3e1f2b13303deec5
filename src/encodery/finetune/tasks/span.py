"""The answer to a question as a span of a context of any length, or that the context has no answer.

The task of arXiv:1606.05250 and arXiv:1806.03822, read as in arXiv:1810.04805.
Start and end are softmaxes over the tokens of the context and the first token, which means "no answer here". A long
context is read in overlapping windows, each after the whole question. The best span of all windows is the answer,
unless "no answer" scores higher by more than a threshold, which is chosen on held-out rows.
`answers` of a row: {"text": [...], "answer_start": [...]}, or a list of {"text", "start"}; empty without an answer.
Shapes: R rows, E examples (windows), S sequences (as many), T tokens.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import InputError
from encodery.base.settings import check_at_least, check_interval
from encodery.finetune.calibration import softmax
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.layers import ScaledLRLinear, grouped_log_softmax
from encodery.finetune.heads.word_spans import strip_offsets
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, Rows, RowSchema, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.finetune.windows import dropped_tokens, text_windows
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.windows import Truncate

OFFSET_TOLERANCE = 2
"""Characters by which an answer may be displaced from its stated start: data sets count white space differently."""
NUM_CANDIDATES = 20
"""Starts, and ends, of a window that are combined with each other."""
ScoredSpan = tuple[float, int, int]
"""Score, first character, the character after the last."""


@dataclass(frozen=True, kw_only=True)
class ExtractiveQA(Task):
    """Find the answer to a question in a context.

    `overlap`: tokens that neighbouring windows share; `max_answer_tokens`; `num_answers`: candidates that are returned;
    `dropout` before the linear map; `head_lr_scale`: its learning rate relative to the model's.
    Use it for data in the form of SQuAD:

        encodery finetune span squad.json --model run --out reader
        # a row: {"question": "Who wrote Emma?", "context": "Emma is by Jane Austen.",
        #         "answers": [{"text": "Jane Austen", "start": 11}]}
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("question", "context"), ("answers",), group_by=("context",)),
    )
    selection_metric: ClassVar[str] = "f1"
    truncate: ClassVar[Truncate] = "chunk"

    overlap: int = 128
    max_answer_tokens: int = 30
    num_answers: int = 5
    dropout: float = 0.1
    head_lr_scale: float = 10.0

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "dropout")
        check_interval(self, "0 < x", "head_lr_scale")
        check_at_least(self, 1, "max_answer_tokens", "num_answers")
        check_at_least(self, 0, "overlap")

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        answers = [expected_answers(rows, row) for row in range(len(rows["question"]))]
        if not any(answers):
            raise InputError("There is nothing to learn: no question has an answer.")
        return TaskMetadata(unanswered=sum(not own for own in answers))

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        builder, dropped = ExampleBuilder(preprocessor.uses_segments), []
        questions = preprocessor.tokenizer.encode_batch(list(rows["question"]))
        for row, (question, context) in enumerate(zip(questions, rows["context"], strict=True)):
            ids, offsets = preprocessor.tokenizer.encode_with_offsets(context)
            chars, budget = strip_offsets(context, offsets), preprocessor.second_text_budget(row, question)
            windows = text_windows(row, len(ids), budget, self.overlap, preprocessor)
            dropped.append(dropped_tokens(len(ids), windows))
            answer = _token_span(expected_answers(rows, row), chars) if with_targets else None
            for start, stop in windows:
                sequence = preprocessor.pair(question.astype(np.int64), ids.astype(np.int64), start, stop)
                first = sequence.text_start
                of_tokens = np.full((len(sequence.ids), 2), -1, np.int32)
                of_tokens[first : first + stop - start] = chars[start:stop]
                targets = {"start": 0, "end": 0} if with_targets else {}
                if answer is not None and start <= answer[0] and answer[1] < stop:
                    targets = {"start": answer[0] + first - start, "end": answer[1] + first - start}
                builder.add(row, [sequence], targets, {"chars": of_tokens})
        return builder.build(dropped)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return _SpanModule(shape.width, self.dropout, self.head_lr_scale)

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        threshold = calibration.get("threshold", 0.0) if metadata.unanswered else np.inf
        candidates: list[list[ScoredSpan]] = [[] for _ in range(examples.num_rows)]
        no_answer = np.full(examples.num_rows, np.inf)
        for index, (row, logits) in enumerate(zip(examples.row.tolist(), outputs, strict=True)):
            candidates[row] += self._candidates(logits, examples.token_mark("chars", index))
            no_answer[row] = min(no_answer[row], float(logits[0].sum()))
        contexts = rows["context"]
        return [
            self._answer(own, float(score), contexts[row], threshold)
            for row, (own, score) in enumerate(zip(candidates, no_answer, strict=True))
        ]

    def _candidates(self, logits: np.ndarray, chars: np.ndarray) -> list[ScoredSpan]:
        """Return the best spans of a window, best first."""
        inside = np.flatnonzero(chars[:, 0] >= 0)
        starts = inside[np.argsort(-logits[inside, 0], kind="stable")[:NUM_CANDIDATES]]
        ends = inside[np.argsort(-logits[inside, 1], kind="stable")[:NUM_CANDIDATES]]
        pairs = [
            (s, e) for s in starts for e in ends if s <= e < s + self.max_answer_tokens and chars[s, 0] < chars[e, 1]
        ]
        scored = [(float(logits[s, 0] + logits[e, 1]), int(chars[s, 0]), int(chars[e, 1])) for s, e in pairs]
        return sorted(scored, reverse=True)[: self.num_answers]

    def _answer(self, spans: list[ScoredSpan], no_answer: float, context: str, threshold: float) -> Answer:
        """Return the answer of a row from the best spans of its windows and the lowest score of "no answer"."""
        merged: dict[tuple[int, int], float] = {}
        for score, start, end in spans:
            merged[start, end] = max(score, merged.get((start, end), -np.inf))
        ranked = sorted(((score, span) for span, score in merged.items()), reverse=True)[: self.num_answers]
        if not ranked:
            return {"prediction": "", "probability": 1.0, "margin": -1e9, "candidates": []}
        probabilities = softmax(np.array([[no_answer, *(score for score, _ in ranked)]]))[0]
        candidates = [
            {"text": context[start:end], "start": start, "end": end, "probability": float(probability)}
            for (_, (start, end)), probability in zip(ranked, probabilities[1:], strict=True)
        ]
        margin = no_answer - ranked[0][0]
        if margin > threshold:
            return {
                "prediction": "",
                "probability": float(probabilities[0]),
                "margin": -margin,
                "candidates": candidates,
            }
        best = candidates[0]
        return {
            "prediction": best["text"],
            "start": best["start"],
            "end": best["end"],
            "probability": best["probability"],
            "margin": -margin,
            "candidates": candidates,
        }

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        scores = [squad_scores(answer["prediction"], expected_answers(rows, row)) for row, answer in enumerate(answers)]
        exact, f1 = np.array(scores).mean(0)
        return {"exact": float(exact), "f1": float(f1)}

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """See `Task`. Chooses the threshold of "no answer" with the highest F1."""
        if not metadata.unanswered:
            return {}
        answers = self.decode(outputs, examples, rows, metadata, {"threshold": np.inf})
        margins = np.array([-answer["margin"] for answer in answers])
        expected = [expected_answers(rows, row) for row in range(len(answers))]
        answered = np.array([squad_scores(a["prediction"], own)[1] for a, own in zip(answers, expected, strict=True)])
        unanswered = np.array([squad_scores("", own)[1] for own in expected])
        order = np.argsort(margins, kind="stable")
        total = np.concatenate([[unanswered.sum()], unanswered.sum() + np.cumsum((answered - unanswered)[order])])
        best = int(total.argmax())  # The number of rows of lowest margin that are answered.
        edges = np.concatenate([[margins[order[0]] - 1], margins[order], [margins[order[-1]] + 1]])
        return {"threshold": float((edges[best] + edges[best + 1]) / 2)}


class _SpanModule(TaskModule):
    granularity = "token"

    def __init__(self, width: int, dropout: float, lr_scale: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = ScaledLRLinear(width, 2, lr_scale)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        outputs: Tensor = self.out(self.dropout(output.hidden)).float()
        return outputs

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"start": len(batch), "end": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        allowed = batch.extra["chars"][:, 0] >= 0
        first = batch.cu_seqlens[:-1].long()
        allowed[first] = True
        terms = {}
        for column, name in enumerate(("start", "end")):
            scores = predicted[:, column].masked_fill(~allowed, -torch.inf)
            log_probabilities = grouped_log_softmax(scores, batch.layout.sequence_ids, len(batch))
            terms[name] = LossTerm(-log_probabilities[first + batch.extra[name]].sum(), len(batch), 0.5)
        return terms


def expected_answers(rows: Rows, row: int) -> list[tuple[str, int]]:
    """Return the text and the first character of each expected answer of a row.

    Raises `InputError` naming a row whose answer is not at its stated start.
    """
    value, context = rows["answers"][row], rows["context"][row]
    if isinstance(value, Mapping):
        starts = value.get("answer_start", value.get("start", []))
        answers = list(zip(value.get("text", []), starts, strict=True))
    else:
        answers = [(one["text"], one["start"] if "start" in one else one["answer_start"]) for one in value or []]
    located = []
    for text, start in answers:
        stripped = str(text).strip()
        at = int(start)
        if context[at : at + len(stripped)] != stripped:
            at = context.find(stripped, max(at - OFFSET_TOLERANCE, 0), at + len(text) + OFFSET_TOLERANCE)
        if at < 0 or not stripped:
            raise InputError(f"Row {row}: its answer {text!r} is not at character {start} of the context.")
        located.append((stripped, at))
    return located


def _token_span(answers: list[tuple[str, int]], chars: np.ndarray) -> tuple[int, int] | None:
    """Return the first and last token of the first answer, None without one."""
    if not answers:
        return None
    text, start = answers[0]
    inside = np.flatnonzero((chars[:, 1] > start) & (chars[:, 0] < start + len(text)))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def squad_scores(predicted: str, expected: list[tuple[str, int]]) -> tuple[float, float]:
    """Return whether a prediction equals an expected answer, and its best F1 over words, both as SQuAD defines them."""
    words = _normalised_words(predicted)
    if not expected:
        return float(not words), float(not words)
    exact = f1 = 0.0
    for text, _ in expected:
        target = _normalised_words(text)
        common = sum((Counter(words) & Counter(target)).values())
        exact = max(exact, float(words == target))
        f1 = max(f1, 2 * common / (len(words) + len(target)) if words and target else float(words == target))
    return exact, f1


def _normalised_words(text: str) -> list[str]:
    """Return the words in lower case, without punctuation and articles."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()
