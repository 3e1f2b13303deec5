"""The answer to a question as a span of a context of any length, or that it has none.

The task of arXiv:1606.05250 and arXiv:1806.03822, read as in arXiv:1810.04805.
Start and end are softmaxes over the tokens of the context and the first token, which stands for "no answer here". Long
contexts are read in overlapping windows, each behind the whole question; the best span of all windows is the answer,
unless saying nothing scores higher by more than a threshold that is chosen on rows that were not learnt from.
`answers` of a row: {"text": [...], "answer_start": [...]}, or a list of {"text", "start"}; empty for none.
Shapes: E examples (windows), S sequences (as many), T tokens.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from encodery.base.errors import InputError, SettingsError
from encodery.finetune import calibrate
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.pooled import ScaledLRLinear, check_dropout, check_lr_scale, grouped_log_softmax
from encodery.finetune.heads.word_spans import strip_offsets
from encodery.finetune.preprocess import Preprocessor, overlapping_windows
from encodery.finetune.tasks import Answer, Rows, RowSchema, Task, TaskMetadata, TaskModule
from encodery.model.shape import Batch, Output, Shape
from encodery.objectives import Count, LossTerm
from encodery.tokens.windows import Truncate

OFFSET_TOLERANCE = (
    2  # Characters by which an answer may stand elsewhere than it says; its edges often were counted with spaces.
)
NUM_CANDIDATES = 20  # Starts, and ends, of a window that are tried with each other.


@dataclass(frozen=True, kw_only=True)
class ExtractiveQA(Task):
    """`overlap`: tokens that neighbouring windows share. `longest`: tokens of an answer. `best`: how many answers are
    told. `dropout` before the linear map, which learns `rate` times as fast as the model."""

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
        check_dropout(self.dropout)
        check_lr_scale(self.head_lr_scale)
        if self.max_answer_tokens < 1 or self.num_answers < 1 or self.overlap < 0:
            raise SettingsError(
                f"longest = {self.max_answer_tokens}, best = {self.num_answers}, overlap = {self.overlap}: must be at least 1, 1 and 0."
            )

    def fit_labels(self, rows: Rows) -> dict[str, Any]:
        found = [_answers(rows, row) for row in range(len(rows["question"]))]
        if not any(found):
            raise InputError("There is nothing to learn: no question has an answer.")
        return {"unanswered": sum(not some for some in found)}

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        collector, dropped = ExampleBuilder(preprocessor.uses_segments), []
        questions = preprocessor.tokenizer.encode_batch(list(rows["question"]))
        for row, (question, context) in enumerate(zip(questions, rows["context"], strict=True)):
            ids, offsets = preprocessor.tokenizer.encode_with_offsets(context)
            where, room = strip_offsets(context, offsets), preprocessor.second_text_budget(row, question)
            found = [(0, len(ids))]
            if preprocessor.truncate == "chunk":
                found = overlapping_windows(len(ids), room, self.overlap)
            elif len(ids) > room:
                preprocessor.check_fits(row, len(question) + len(ids), preprocessor.pair_budget)
                found = [(len(ids) - room, len(ids))] if preprocessor.truncate == "left" else [(0, room)]
            dropped.append(len(ids) - found[-1][1] + found[0][0])
            answer = _pieces(_answers(rows, row), where) if with_targets else None
            for start, stop in found:
                piece = preprocessor.pair(question.astype(np.int64), ids.astype(np.int64), start, stop)
                chars = np.full((len(piece.ids), 2), -1, np.int32)
                chars[piece.text_start : piece.text_start + stop - start] = where[start:stop]
                goal = {}
                if with_targets:
                    inside = answer is not None and start <= answer[0] and answer[1] < stop
                    move = piece.text_start - start
                    goal = {
                        "start": answer[0] + move if inside and answer else 0,
                        "end": answer[1] + move if inside and answer else 0,
                    }
                collector.add(row, [piece], goal, {"chars": chars})
        return collector.build(dropped)

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
        threshold = calibration.get("threshold", 0.0) if metadata["unanswered"] else np.inf
        found: list[list[tuple[float, int, int]]] = [[] for _ in range(examples.num_rows)]
        nothing = np.full(examples.num_rows, np.inf)
        for number, (row, logits) in enumerate(zip(examples.row.tolist(), outputs, strict=True)):
            found[row] += self._candidates(logits, examples.token_mark("chars", number))
            nothing[row] = min(nothing[row], float(logits[0].sum()))
        contexts = rows["context"]
        return [
            self._answer(some, float(null), contexts[row], threshold)
            for row, (some, null) in enumerate(zip(found, nothing, strict=True))
        ]

    def _candidates(self, logits: np.ndarray, chars: np.ndarray) -> list[tuple[float, int, int]]:
        """(score, first character, the one behind the last) of the best spans of a window."""
        inside = np.flatnonzero(chars[:, 0] >= 0)
        starts = inside[np.argsort(-logits[inside, 0], kind="stable")[:NUM_CANDIDATES]]
        ends = inside[np.argsort(-logits[inside, 1], kind="stable")[:NUM_CANDIDATES]]
        pairs = [
            (s, e) for s in starts for e in ends if s <= e < s + self.max_answer_tokens and chars[s, 0] < chars[e, 1]
        ]
        scored = [(float(logits[s, 0] + logits[e, 1]), int(chars[s, 0]), int(chars[e, 1])) for s, e in pairs]
        return sorted(scored, reverse=True)[: self.num_answers]

    def _answer(self, some: list[tuple[float, int, int]], null: float, context: str, threshold: float) -> Answer:
        merged: dict[tuple[int, int], float] = {}
        for score, start, end in some:
            merged[start, end] = max(score, merged.get((start, end), -np.inf))
        ranked = sorted(((score, at) for at, score in merged.items()), reverse=True)[: self.num_answers]
        if not ranked:
            return {"prediction": "", "probability": 1.0, "margin": -1e9, "best": []}
        chances = calibrate.softmax(np.array([[null, *(score for score, _ in ranked)]]))[0]
        told = [
            {"text": context[start:end], "start": start, "end": end, "probability": float(chance)}
            for (_, (start, end)), chance in zip(ranked, chances[1:], strict=True)
        ]
        margin = null - ranked[0][0]
        if margin > threshold:
            return {"prediction": "", "probability": float(chances[0]), "margin": -margin, "best": told}
        first = told[0]
        return {
            "prediction": first["text"],
            "start": first["start"],
            "end": first["end"],
            "probability": first["probability"],
            "margin": -margin,
            "best": told,
        }

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        scored = [_scored(answer["prediction"], _answers(rows, row)) for row, answer in enumerate(answers)]
        exact, f1 = np.array(scored).mean(0)
        return {"exact": float(exact), "f1": float(f1)}

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        if not metadata["unanswered"]:
            return {}
        answers = self.decode(outputs, examples, rows, metadata, {"threshold": np.inf})
        margins = np.array([-answer["margin"] for answer in answers])
        true = [_answers(rows, row) for row in range(len(answers))]
        said = np.array([_scored(a["prediction"], some)[1] for a, some in zip(answers, true, strict=True)])
        silent = np.array([_scored("", some)[1] for some in true])
        order = np.argsort(margins, kind="stable")
        gained = np.concatenate([[silent.sum()], silent.sum() + np.cumsum((said - silent)[order])])
        best = int(gained.argmax())  # How many of the rows of least margin are answered.
        edges = np.concatenate([[margins[order[0]] - 1], margins[order], [margins[order[-1]] + 1]])
        return {"threshold": float((edges[best] + edges[best + 1]) / 2)}


class _SpanModule(TaskModule):
    granularity = "token"

    def __init__(self, width: int, dropout: float, rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.out = ScaledLRLinear(width, 2, rate)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        y: Tensor = self.out(self.drop(output.hidden)).float()
        return y

    def counts(self, batch: Batch) -> dict[str, Count]:
        return {"start": len(batch), "end": len(batch)}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        allowed = batch.extra["chars"][:, 0] >= 0
        allowed[batch.cu_seqlens[:-1].long()] = True
        terms = {}
        for side, name in enumerate(("start", "end")):
            scores = predicted[:, side].masked_fill(~allowed, -torch.inf)
            logs = grouped_log_softmax(scores, batch.layout.sequence_ids, len(batch))
            terms[name] = LossTerm(-logs[batch.cu_seqlens[:-1].long() + batch.extra[name]].sum(), len(batch), 0.5)
        return terms


def _answers(rows: Rows, row: int) -> list[tuple[str, int]]:
    """Text and first character of each true answer of a row.

    Raises `InputError` naming a row whose answer does not stand where it says.
    """
    given, context = rows["answers"][row], rows["context"][row]
    if isinstance(given, Mapping):
        starts = given.get("answer_start", given.get("start", []))
        found = list(zip(given.get("text", []), starts, strict=True))
    else:
        found = [(one["text"], one["start"] if "start" in one else one["answer_start"]) for one in given or []]
    placed = []
    for text, start in found:
        bare = str(text).strip()
        at = int(start)
        if context[at : at + len(bare)] != bare:
            at = context.find(bare, max(at - OFFSET_TOLERANCE, 0), at + len(text) + OFFSET_TOLERANCE)
        if at < 0 or not bare:
            raise InputError(f"Row {row}: its answer {text!r} does not stand at character {start} of the context.")
        placed.append((bare, at))
    return placed


def _pieces(answers: list[tuple[str, int]], where: np.ndarray) -> tuple[int, int] | None:
    """First and last piece of the first answer, None where there is none."""
    if not answers:
        return None
    text, start = answers[0]
    inside = np.flatnonzero((where[:, 1] > start) & (where[:, 0] < start + len(text)))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _scored(given: str, true: list[tuple[str, int]]) -> tuple[float, float]:
    """Whether an answer is exactly one of the true ones, and its best overlap with one in words, as SQuAD has it."""
    words = _words(given)
    if not true:
        return float(not words), float(not words)
    exact = f1 = 0.0
    for text, _ in true:
        expected = _words(text)
        shared = sum((Counter(words) & Counter(expected)).values())
        exact = max(exact, float(words == expected))
        f1 = max(f1, 2 * shared / (len(words) + len(expected)) if words and expected else float(words == expected))
    return exact, f1


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()
