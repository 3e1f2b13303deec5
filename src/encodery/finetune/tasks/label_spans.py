"""Spans of any types that are named in a prompt: zero-shot named entities. arXiv:2311.08526 (GLiNER)

A sequence is "[MASK] type [MASK] type … [SEP] text". Every span of up to `max_span_words` words is scored against the
[MASK] of each type (`heads/span_type_scorer.py`); of overlapping spans the more probable one is kept.
Differs from `tag`: the names of types are read, so that types without training rows can be named (`types` of a row).
Differs from the paper: [MASK] is used in place of its [ENT] token, so that the vocabulary does not change; types have
one linear map, which includes the last linear map of the paper's spans; a text in windows and types in several prompts
are judged part by part, and nothing is dropped.
Shapes: R rows, E examples (a window under a prompt), T tokens, K most words of a span, C types of a prompt, U words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from encodery.base.errors import InputError
from encodery.base.settings import check_at_least, check_interval
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.set_metrics import micro_f1
from encodery.finetune.heads.span_type_scorer import SpanTypeScorer, target_marks, word_marks
from encodery.finetune.heads.word_spans import (
    LabelledSpan,
    first_tokens,
    join_words,
    span_answer,
    spans_of,
    strip_offsets,
    tags_of,
    word_spans,
    words_of_span,
)
from encodery.finetune.preprocess import MIN_SECOND_TOKENS, Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, AnswerItem, Rows, RowSchema, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.finetune.windows import dropped_tokens, most_central_window, text_windows
from encodery.model.shape import Shape
from encodery.tokens.windows import Truncate

MIN_PROBABILITY = 0.1
"""Spans below this probability are never predicted, whatever the threshold."""
NumberedType = tuple[int, str]
"""Index of a type in the row's own list, and its name."""
ProbableSpan = tuple[float, int, int, str]
"""Probability, first word, the word after the last, type."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotSpans(Task):
    """Find spans of the types that each row names.

    `max_span_words`: maximum words of a span. `overlap`: tokens that neighbouring windows share; no window edge cuts
    spans of up to half as many. `types_per_prompt`: maximum types that share a prompt. `type_dropout`: fraction of the
    types without a span in a row that are left out of its prompt in training, so that the model learns to read them.
    `positive_weight`: weight in the loss of spans that have a type. `dropout` before the maps.
    Use it for entities of types that are chosen when the model is used:

        encodery finetune label_spans entities.jsonl --model run --out finder
        encodery predict letters.txt --model finder --types person,place
    """

    schemas: ClassVar[tuple[RowSchema, ...]] = (
        RowSchema(("text", "types"), ("spans",)),
        RowSchema(("tokens",), ("tags",)),
        RowSchema(("text",), ("spans",)),
    )
    selection_metric: ClassVar[str] = "f1"
    truncate: ClassVar[Truncate] = "chunk"

    max_span_words: int = 12
    overlap: int = 64
    types_per_prompt: int = 25
    type_dropout: float = 0.3
    positive_weight: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "dropout", "type_dropout")
        check_at_least(self, 1, "max_span_words")
        check_at_least(self, 0, "overlap")
        check_interval(self, "1 <= x <= 100", "types_per_prompt")
        check_interval(self, "0 < x", "positive_weight")

    def fit_labels(self, rows: Rows) -> TaskMetadata:
        named = {str(name) for names in rows.get("types", ()) for name in names}
        types = sorted(named | {label for _, _, spans in _read(rows) for *_, label in spans})
        if not types:
            raise InputError("There is nothing to learn: no row has a span.")
        return TaskMetadata(types=tuple(types))

    def prepare(self, rows: Rows, preprocessor: Preprocessor, metadata: TaskMetadata, with_targets: bool) -> Examples:
        builder, dropped = ExampleBuilder(preprocessor.uses_segments), []
        type_ids: dict[str, np.ndarray] = {}
        for row, (text, words, spans) in enumerate(_read(rows, with_targets)):
            types = self._types(rows, row, metadata, {label for *_, label in spans} if with_targets else None)
            ids, offsets = preprocessor.tokenizer.encode_with_offsets(text)
            first = first_tokens(strip_offsets(text, offsets), words)
            excess = 0
            for prompt_types, budget in self._prompts(types, preprocessor, type_ids):
                windows = text_windows(row, len(ids), budget, self.overlap, preprocessor)
                excess = max(excess, dropped_tokens(len(ids), windows))
                window_of = most_central_window(len(ids), windows)[first] if len(ids) else first
                prompt = [np.r_[preprocessor.tokenizer.mask_id, type_ids[name]] for _, name in prompt_types]
                index_of = {name: index for index, (_, name) in enumerate(prompt_types)}
                for number, (start, stop) in enumerate(windows):
                    inside = np.flatnonzero((first >= start) & (first < stop) & (window_of == number)).tolist()
                    sequence = preprocessor.pair(np.concatenate(prompt), ids.astype(np.int64), start, stop)
                    offset = sequence.text_start - start
                    marks = word_marks(len(sequence.ids), inside, first, stop, offset, self.max_span_words)
                    marks["type"] = np.full(len(sequence.ids), -1, np.int16)
                    marks["type"][_mask_positions(prompt)] = [number for number, _ in prompt_types]
                    if with_targets:
                        marks["target"] = target_marks(marks["reach"], inside, first, spans, index_of, offset)
                    builder.add(row, [sequence], {"types": len(prompt_types)}, marks)
            dropped.append(excess)
        return builder.build(dropped)

    def build(self, shape: Shape, metadata: TaskMetadata) -> TaskModule:
        return SpanTypeScorer(shape.width, self.max_span_words, self.dropout, self.positive_weight)

    def decode(
        self,
        outputs: Sequence[np.ndarray],
        examples: Examples,
        rows: Rows,
        metadata: TaskMetadata,
        calibration: Mapping[str, float],
    ) -> list[Answer]:
        threshold = calibration.get("threshold", 0.5)
        texts = list(_read(rows, False))
        probable: list[list[ProbableSpan]] = [[] for _ in texts]
        for row, span in self._probable_spans(outputs, examples, rows, metadata):
            if span[0] > threshold:
                probable[row].append(span)
        answers = []
        for (text, words, _), own in zip(texts, probable, strict=True):
            kept = _without_overlap(own)
            spans = [span_answer(text, words, span[1:], span[0]) for span in kept]
            prediction = tags_of([span[1:] for span in kept], len(words)) if "tokens" in rows else spans
            answers.append({"prediction": prediction, "spans": spans})
        return answers

    def calibrate(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> dict[str, float]:
        """See `Task`. Chooses the threshold between 0.1 and 0.9 with the highest F1."""
        scores = []
        for threshold in [round(0.1 * step, 1) for step in range(1, 10)]:
            answers = self.decode(outputs, examples, rows, metadata, {"threshold": threshold})
            scores.append((self.metrics(answers, rows, metadata)["f1"], -abs(threshold - 0.5), threshold))
        return {"threshold": max(scores)[2]}

    def metrics(self, answers: Sequence[Answer], rows: Rows, metadata: TaskMetadata) -> dict[str, float]:
        return micro_f1(self.answer_items(rows), self.answer_items(rows, answers))

    def answer_items(self, rows: Rows, answers: Sequence[Answer] | None = None) -> list[set[AnswerItem]]:
        """See `Task`. The items are spans, of words for rows of words, else of characters."""
        of_words = "tokens" in rows
        if answers is None:
            return [
                {span if of_words else (int(words[span[0], 0]), int(words[span[1] - 1, 1]), span[2]) for span in spans}
                for _, words, spans in _read(rows)
            ]
        if of_words:
            return [set(spans_of(answer["prediction"])) for answer in answers]
        return [{(span["start"], span["end"], span["label"]) for span in answer["spans"]} for answer in answers]

    def _types(self, rows: Rows, row: int, metadata: TaskMetadata, present: set[str] | None) -> list[NumberedType]:
        """Return the types to look for in a row, numbered as in its own list.

        In training (`present`: types with a span in the row) they are shuffled, and some without a span are left out.
        """
        names = [str(name) for name in (rows["types"][row] if "types" in rows else metadata.types)]
        if len(set(names)) != len(names) or not names or not all(names):
            raise InputError(f"Row {row}: its types are {names}; a list of different names is needed.")
        numbered = list(enumerate(names))
        if present is None:
            return numbered
        draw = np.random.default_rng([0x59A45, row])
        kept = [one for one in numbered if one[1] in present or draw.random() >= self.type_dropout] or numbered[:1]
        return [kept[index] for index in draw.permutation(len(kept))]

    def _prompts(
        self, types: Sequence[NumberedType], preprocessor: Preprocessor, type_ids: dict[str, np.ndarray]
    ) -> Iterator[tuple[list[NumberedType], int]]:
        """Yield the types of each prompt, which fills at most half a sequence, and the budget of text after it.

        Fills `type_ids`. Raises `InputError` for a type that is too long.
        """
        for _, name in types:
            if name not in type_ids:
                type_ids[name] = preprocessor.tokenizer.encode(name.replace("_", " ")).astype(np.int64)
        own: list[NumberedType] = []
        size, max_size = 0, preprocessor.pair_budget // 2
        for one in types:
            length = len(type_ids[one[1]]) + 1
            if length > preprocessor.pair_budget - min(MIN_SECOND_TOKENS, max_size):
                raise InputError(
                    f"Type '{one[1]}' has {length - 1} tokens: the model reads {preprocessor.max_length} in all."
                )
            if own and (size + length > max_size or len(own) == self.types_per_prompt):
                yield own, preprocessor.pair_budget - size
                own, size = [], 0
            own, size = [*own, one], size + length
        yield own, preprocessor.pair_budget - size

    def _probable_spans(
        self, outputs: Sequence[np.ndarray], examples: Examples, rows: Rows, metadata: TaskMetadata
    ) -> Iterator[tuple[int, ProbableSpan]]:
        """Yield the row of every span above `MIN_PROBABILITY`, and the span."""
        for index, logits in enumerate(outputs):
            row, types = int(examples.row[index]), examples.token_mark("type", index)
            names = metadata.types if "types" not in rows else [str(name) for name in rows["types"][row]]
            numbers, word = types[types >= 0], examples.token_mark("word", index)
            of_types = logits.reshape(len(logits), self.max_span_words, -1)[:, :, : len(numbers)].astype(np.float64)
            probabilities = 1 / (1 + np.exp(-np.maximum(of_types, -500)))
            above = (probabilities > MIN_PROBABILITY) & (word >= 0)[:, None, None]
            for token, length, place in np.argwhere(above).tolist():
                start = int(word[token])
                probability = float(probabilities[token, length, place])
                yield row, (probability, start, start + length + 1, names[numbers[place]])


def _read(rows: Rows, with_targets: bool = True) -> Iterator[tuple[str, np.ndarray, list[LabelledSpan]]]:
    """Yield each row's text, the offsets of its words (U, 2), and its spans of words."""
    if "tokens" in rows:
        for row, tokens in enumerate(rows["tokens"]):
            tags = [str(tag) for tag in rows["tags"][row]] if with_targets else []
            if with_targets and len(tags) != len(tokens):
                raise InputError(f"Row {row} has {len(tokens)} words and {len(tags)} tags.")
            yield *join_words([str(word) for word in tokens]), spans_of(tags)
        return
    for row, text in enumerate(rows["text"]):
        words = word_spans(text)
        spans = rows["spans"][row] if with_targets else ()
        yield text, words, [words_of_span(row, text, words, span) for span in spans]


def _mask_positions(prompt: Sequence[np.ndarray]) -> np.ndarray:
    """Return the position of the [MASK] of each type; the sequence's first token precedes the prompt."""
    positions: np.ndarray = np.cumsum([1, *[len(ids) for ids in prompt[:-1]]])
    return positions


def _without_overlap(spans: list[ProbableSpan]) -> list[ProbableSpan]:
    """Return the spans that overlap no more probable one, in the order of the text."""
    taken: set[int] = set()
    kept = []
    for span in sorted(spans, key=lambda span: (-span[0], span[1], span[2], span[3])):
        words = range(span[1], span[2])
        if taken.isdisjoint(words):
            taken.update(words)
            kept.append(span)
    return sorted(kept, key=lambda span: span[1])
