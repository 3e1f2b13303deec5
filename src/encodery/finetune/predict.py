"""Answers of a fine-tuned model: rows to labels, tags, spans, scores; in batches of like length, nothing padded.

Shapes: R rows, E examples, T tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.base.parts import name_of
from encodery.finetune.artifact import load_head
from encodery.finetune.examples import Examples
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.tasks import Answer, Rows, Task, TaskModule
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.windows import batches_by_length, parse_truncate

BATCH_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class Predictions:
    """`answers` (R); `tokens` (R,) read of each row, special ones included; `dropped` (R,) tokens that were cut off."""

    answers: list[Answer]
    tokens: np.ndarray
    dropped_tokens: np.ndarray


@dataclass(eq=False)
class Predictor:
    """A model with its task at work. `Predictor.of(load_model(path))` makes one of what `encodery finetune` wrote."""

    model: Model
    module: TaskModule
    task: Task
    preprocessor: Preprocessor
    metadata: Mapping[str, Any]
    calibration: Mapping[str, float]
    device: torch.device

    @classmethod
    def from_model(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> Predictor:
        """Of a loaded model. Raises `ArtifactError` for one that has no task, or whose head computes otherwise now."""
        found = load_head(loaded)
        place = machine.device() if device is None else torch.device(device)
        reader = Preprocessor(
            loaded.tokenizer, found.max_length, loaded.model.settings.type_vocab_size > 1, found.truncate
        )
        model, module = loaded.model.to(place).eval(), found.module.to(place).eval()
        return cls(accelerate(model), module, found.task, reader, found.metadata, found.calibration, place)

    def predict(
        self,
        rows: Rows | Sequence[str],
        truncate: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """The answers for rows, given as columns by role or as plain texts. Empty texts are legal.

        `truncate`: error, right, left or chunk, absent: as in training; `batch_tokens`: tokens computed at once;
        `progress` is called with the number of examples done after each batch.
        Raises `InputError` for roles that lack, and for a row that is too long under "error".
        """
        table = self._table(rows)
        policy = self.preprocessor.truncate if truncate is None else parse_truncate(truncate)
        examples = self.task.prepare(table, replace(self.preprocessor, truncate=policy), self.metadata, False)
        if not examples.num_rows:
            return Predictions([], np.zeros(0, np.int64), examples.dropped_tokens)
        outputs = self.outputs(examples, batch_tokens, progress)
        answers = self.task.decode(outputs, examples, table, self.metadata, self.calibration)
        tokens = np.bincount(examples.row, weights=examples.lengths, minlength=examples.num_rows).astype(np.int64)
        return Predictions(answers, tokens, examples.dropped_tokens)

    def outputs(
        self,
        examples: Examples,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """What the module gives for each example (E): a vector, or a row for each of its sequences or tokens."""
        if batch_tokens < 1:
            raise InputError(f"batch_tokens = {batch_tokens}: must be positive.")
        found: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for numbers in batches_by_length(examples.lengths, batch_tokens):
                batch = examples.batch(numbers).to(self.device)
                given: np.ndarray = self.module(self.model(batch), batch).float().cpu().numpy()
                sizes = {"example": None, "sequence": examples.num_sequences, "token": examples.lengths}[
                    self.module.granularity
                ]
                parts = given if sizes is None else np.split(given, sizes[numbers].cumsum()[:-1])
                found.update(zip(numbers.tolist(), parts, strict=True))
                if progress is not None:
                    progress(len(numbers))
        return [found[number] for number in range(len(examples))]

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """(N,) float64 how well each text answers the query, higher being better, for a model of the task `rank`.

        Raises `InputError` for a model of another task.
        """
        if name_of(self.task) != "rank":
            raise InputError(
                f"A model of the task 'rank' is needed to score texts, this one is of '{name_of(self.task)}'."
            )
        answers = self.predict({"query": [query] * len(texts), "text": list(texts)}).answers
        return np.array([answer["logit"] for answer in answers], np.float64)

    def _table(self, rows: Rows | Sequence[str]) -> Rows:
        """The columns that the task reads."""
        if not isinstance(rows, Mapping):
            if isinstance(rows, str | bytes):
                raise InputError("A list of texts is needed, not one text.")
            rows = {"text": list(rows)}
        form = self.task.schema_for(list(rows), False)
        return {role: rows[role] for role in form.inputs}
