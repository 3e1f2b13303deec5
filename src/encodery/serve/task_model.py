"""The served model of a fine-tuned model: rows to the answers of its task, as `Predictor.predict` gives them.

Shapes: R rows of a request, E examples of them, B examples of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from encodery.base.errors import InputError
from encodery.base.parts import name_of
from encodery.finetune.examples import Examples
from encodery.finetune.predict import Predictor
from encodery.finetune.task_types import Rows
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.served_model import InferenceRequest, InferenceResult, TokenizedRequest, check_finite
from encodery.serve.shared_encoder import EncoderHead
from encodery.tokens.windows import Truncate, parse_truncate


@dataclass(frozen=True, eq=False)
class _Context:
    examples: Examples
    rows: Rows
    dropped_tokens: np.ndarray


@dataclass(frozen=True, eq=False)
class _Example:
    examples: Examples
    index: int


class TaskModel(EncoderHead):
    """The answers of a model's task."""

    def __init__(self, predictor: Predictor, truncate: str | None = None) -> None:
        self.predictor = predictor
        own = predictor.preprocessor.truncate
        # A task that reads long texts in windows drops nothing, so that this is not a truncation.
        default: Truncate = own if own == "chunk" else "error"
        self.truncate: Truncate = default if truncate is None else parse_truncate(truncate)

    @property
    def task(self) -> str:
        """The name of the task."""
        return name_of(self.predictor.task)

    def info(self) -> dict[str, Any]:
        """See `ServedModel`."""
        predictor = self.predictor
        return {
            "task": self.task,
            "inputs": [list(inputs) for inputs in dict.fromkeys(schema.inputs for schema in predictor.task.schemas)],
            "labels": list(predictor.metadata.labels),
            "max_length": predictor.preprocessor.max_length,
            "truncate": self.truncate,
        }

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: rows, as columns by role; `options`: truncate, document_tokens (the most of each `text`)."""
        predictor, columns = self.predictor, dict(request.inputs["rows"])
        max_tokens = request.options.get("document_tokens")
        lost = np.zeros(len(next(iter(columns.values()))), np.int64)
        if max_tokens is not None:
            columns["text"], lost = self._truncate_documents(columns["text"], max_tokens)
        schema = predictor.task.schema_for(list(columns), False)
        unknown = [role for role in columns if role not in schema.inputs]
        if unknown:
            raise InputError(
                f"{', '.join(unknown)}: is not an input of the task '{self.task}'; its inputs are {schema.inputs}."
            )
        rows: Rows = {role: columns[role] for role in schema.inputs}
        truncate = parse_truncate(request.options.get("truncate") or self.truncate)
        preprocessor = replace(predictor.preprocessor, truncate=truncate)
        examples = predictor.task.prepare(rows, preprocessor, predictor.metadata, False)
        units = [_Example(examples, index) for index in range(len(examples))]
        context = _Context(examples, rows, examples.dropped_tokens + lost)
        return TokenizedRequest(units, examples.lengths.tolist(), context)

    @property
    def model(self) -> Model:
        """The predictor's."""
        return self.predictor.model

    @property
    def device(self) -> torch.device:
        """The predictor's."""
        return self.predictor.device

    @property
    def shareable(self) -> bool:
        """Not if the model's masked-language-model head answers."""
        return not self.predictor.task.uses_mlm_head

    def num_sequences(self, unit: _Example) -> int:
        """See `EncoderHead`."""
        return int(unit.examples.num_sequences[unit.index])

    def batch(self, units: Sequence[_Example]) -> Batch:
        """See `EncoderHead`."""
        return _join(units)

    def run(self, units: Sequence[_Example]) -> list[np.ndarray]:
        """What the task's module gives for each example."""
        with torch.inference_mode():
            batch = self.batch(units).to(self.device)
            return self.run_head(self.model(batch), batch, units)

    def run_head(self, output: Output, batch: Batch, units: Sequence[_Example]) -> list[np.ndarray]:
        """See `EncoderHead`."""
        module = self.predictor.module
        values: np.ndarray = module(output, batch).float().cpu().numpy()
        if module.granularity == "example":
            return list(values)
        sizes = [self._size(unit) for unit in units]
        return np.split(values, np.cumsum(sizes)[:-1])

    def finish(self, context: _Context, outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`answers` (R)."""
        check_finite(*outputs)
        predictor, examples = self.predictor, context.examples
        answers: list[Any] = []
        if examples.num_rows:
            answers = predictor.task.decode(outputs, examples, context.rows, predictor.metadata, predictor.calibration)
        tokens = np.bincount(examples.row, weights=examples.lengths, minlength=examples.num_rows)
        return InferenceResult({"answers": answers}, {}, [int(n) for n in tokens], context.dropped_tokens.tolist())

    def _size(self, unit: _Example) -> int:
        """The number of values that the module gives for an example."""
        examples = unit.examples
        sizes = examples.num_sequences if self.predictor.module.granularity == "sequence" else examples.lengths
        return int(sizes[unit.index])

    def _truncate_documents(self, texts: Sequence[str], max_tokens: int) -> tuple[list[str], np.ndarray]:
        """Texts of at most `max_tokens`, and the number of tokens that each lost."""
        if max_tokens < 1:
            raise InputError(f"max_tokens_per_doc = {max_tokens}: must be at least 1.")
        truncated, lost = [], np.zeros(len(texts), np.int64)
        for index, text in enumerate(texts):
            ids, offsets = self.predictor.preprocessor.tokenizer.encode_with_offsets(text)
            lost[index] = max(len(ids) - max_tokens, 0)
            truncated.append(text[: int(offsets[max_tokens - 1, 1])] if lost[index] else text)
        return truncated, lost


def _join(units: Sequence[_Example]) -> Batch:
    """One batch of examples of several requests, in their order."""
    groups = [list(group) for _, group in itertools.groupby(units, key=lambda unit: id(unit.examples))]
    parts = [group[0].examples.batch(np.array([unit.index for unit in group])) for group in groups]
    if len(parts) == 1:
        return parts[0]
    lengths = torch.cat([part.cu_seqlens.diff() for part in parts])
    cu_seqlens = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(torch.int32)
    segments = [part.segment for part in parts if part.segment is not None]
    extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
    return Batch(
        torch.cat([part.ids for part in parts]),
        cu_seqlens,
        max(part.max_seqlen for part in parts),
        torch.cat(segments) if segments else None,
        extra,
    )
