"""The lane of a fine-tuned model: rows to the answers of its task, as `Predictor.predict` gives them.

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
from encodery.finetune.tasks import Rows
from encodery.model.network import Model
from encodery.model.shape import Batch, Output
from encodery.serve.served_model import InferenceRequest, InferenceResult, TokenizedRequest, check_finite
from encodery.serve.shared_encoder import EncoderHead
from encodery.tokens.windows import Truncate, parse_truncate


@dataclass(frozen=True, eq=False)
class _Told:
    examples: Examples
    rows: Rows
    dropped: np.ndarray


@dataclass(frozen=True, eq=False)
class _Example:
    examples: Examples
    number: int


class TaskModel(EncoderHead):
    """What the model's task says of rows."""

    def __init__(self, predictor: Predictor, truncate: str | None = None) -> None:
        self.predictor = predictor
        own = predictor.preprocessor.truncate
        # A task that reads long texts in windows loses nothing, so that is no truncation.
        self.truncate: Truncate = (
            parse_truncate(truncate) if truncate is not None else own if own == "chunk" else "error"
        )

    @property
    def task(self) -> str:
        """Its name."""
        return name_of(self.predictor.task)

    def info(self) -> dict[str, Any]:
        found = self.predictor
        return {
            "task": self.task,
            "reads": [list(inputs) for inputs in dict.fromkeys(form.inputs for form in found.task.schemas)],
            "labels": list(found.metadata.get("labels", [])),
            "max_length": found.preprocessor.max_length,
            "truncate": self.truncate,
        }

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        """`inputs`: rows, columns by role; `options`: truncate, document_tokens (the most of each `text`)."""
        found, given = self.predictor, dict(request.inputs["rows"])
        most, cut = request.options.get("document_tokens"), np.zeros(len(next(iter(given.values()))), np.int64)
        if most is not None:
            given["text"], cut = self._cut(given["text"], most)
        form = found.task.schema_for(list(given), False)
        unread = [role for role in given if role not in form.inputs]
        if unread:
            raise InputError(f"{', '.join(unread)}: is not read by the task '{self.task}', which reads {form.inputs}.")
        rows: Rows = {role: given[role] for role in form.inputs}
        reader = replace(found.preprocessor, truncate=parse_truncate(request.options.get("truncate") or self.truncate))
        examples = found.task.prepare(rows, reader, found.metadata, False)
        units = [_Example(examples, number) for number in range(len(examples))]
        return TokenizedRequest(units, examples.lengths.tolist(), _Told(examples, rows, examples.dropped_tokens + cut))

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
        """Not where the model's own head answers."""
        return not self.predictor.task.uses_mlm_head

    def num_sequences(self, unit: _Example) -> int:
        """See `Headed`."""
        return int(unit.examples.num_sequences[unit.number])

    def batch(self, units: Sequence[_Example]) -> Batch:
        """See `Headed`."""
        return _joined(units)

    def run(self, units: Sequence[_Example]) -> list[np.ndarray]:
        """What the task's module gives for each example."""
        with torch.inference_mode():
            batch = self.batch(units).to(self.device)
            return self.run_head(self.model(batch), batch, units)

    def run_head(self, output: Output, batch: Batch, units: Sequence[_Example]) -> list[np.ndarray]:
        """See `Headed`."""
        predictor = self.predictor
        given: np.ndarray = predictor.module(output, batch).float().cpu().numpy()
        if predictor.module.granularity == "example":
            return list(given)
        sizes = [self._size(unit) for unit in units]
        return np.split(given, np.cumsum(sizes)[:-1])

    def finish(self, context: _Told, outputs: Sequence[np.ndarray]) -> InferenceResult:
        """`answers` (R)."""
        check_finite(*outputs)
        found, examples = self.predictor, context.examples
        answers = (
            found.task.decode(outputs, examples, context.rows, found.metadata, found.calibration)
            if examples.num_rows
            else []
        )
        tokens = np.bincount(examples.row, weights=examples.lengths, minlength=examples.num_rows)
        return InferenceResult({"answers": answers}, {}, [int(n) for n in tokens], context.dropped.tolist())

    def _size(self, unit: _Example) -> int:
        sizes = (
            unit.examples.num_sequences if self.predictor.module.granularity == "sequence" else unit.examples.lengths
        )
        return int(sizes[unit.number])

    def _cut(self, texts: Sequence[str], most: int) -> tuple[list[str], np.ndarray]:
        """Texts of at most so many tokens, and how many each lost."""
        if most < 1:
            raise InputError(f"max_tokens_per_doc = {most}: must be positive.")
        found, lost = [], np.zeros(len(texts), np.int64)
        for number, text in enumerate(texts):
            ids, offsets = self.predictor.preprocessor.tokenizer.encode_with_offsets(text)
            lost[number] = max(len(ids) - most, 0)
            found.append(text[: int(offsets[most - 1, 1])] if lost[number] else text)
        return found, lost


def _joined(units: Sequence[_Example]) -> Batch:
    """One batch of examples of several requests, in their order."""
    groups = itertools.groupby(units, key=lambda unit: id(unit.examples))
    runs = [list(group) for _, group in groups]
    parts = [run[0].examples.batch(np.array([unit.number for unit in run])) for run in runs]
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
