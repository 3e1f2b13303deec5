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
from encodery.finetune.artifact import opened
from encodery.finetune.examples import Examples
from encodery.finetune.reader import Reader
from encodery.finetune.tasks import Answer, Rows, Task, TaskModule
from encodery.model.load import Loaded
from encodery.model.network import Model
from encodery.runtimes._quick import quick
from encodery.tokens.windows import batches, checked

BATCH_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class Predicted:
    """`answers` (R); `tokens` (R,) read of each row, special ones included; `dropped` (R,) tokens that were cut off."""

    answers: list[Answer]
    tokens: np.ndarray
    dropped: np.ndarray


@dataclass(eq=False)
class Predictor:
    """A model with its task at work. `Predictor.of(load_model(path))` makes one of what `encodery finetune` wrote."""

    model: Model
    module: TaskModule
    task: Task
    reader: Reader
    known: Mapping[str, Any]
    tuned: Mapping[str, float]
    device: torch.device

    @classmethod
    def of(cls, loaded: Loaded, device: torch.device | str | None = None) -> Predictor:
        """Of a loaded model. Raises `ArtifactError` for one that has no task, or whose head computes otherwise now."""
        found = opened(loaded)
        place = machine.device() if device is None else torch.device(device)
        reader = Reader(loaded.tokenizer, found.max_length, loaded.model.settings.segments > 1, found.truncate)
        model, module = loaded.model.to(place).eval(), found.module.to(place).eval()
        return cls(quick(model), module, found.task, reader, found.known, found.tuned, place)

    def predict(
        self,
        rows: Rows | Sequence[str],
        truncate: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> Predicted:
        """The answers for rows, given as columns by role or as plain texts. Empty texts are legal.

        `truncate`: error, right, left or chunk, absent: as in training; `batch_tokens`: tokens computed at once;
        `progress` is called with the number of examples done after each batch.
        Raises `InputError` for roles that lack, and for a row that is too long under "error".
        """
        table = self._table(rows)
        policy = self.reader.truncate if truncate is None else checked(truncate)
        examples = self.task.prepare(table, replace(self.reader, truncate=policy), self.known, False)
        if not examples.rows:
            return Predicted([], np.zeros(0, np.int64), examples.dropped)
        outputs = self.outputs(examples, batch_tokens, progress)
        answers = self.task.decode(outputs, examples, table, self.known, self.tuned)
        tokens = np.bincount(examples.row, weights=examples.lengths, minlength=examples.rows).astype(np.int64)
        return Predicted(answers, tokens, examples.dropped)

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
            for numbers in batches(examples.lengths, batch_tokens):
                batch = examples.batch(numbers).to(self.device)
                given: np.ndarray = self.module(self.model(batch), batch).float().cpu().numpy()
                sizes = {"example": None, "sequence": examples.sizes, "token": examples.lengths}[self.module.per]
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
        form = self.task.form(list(rows), False)
        return {role: rows[role] for role in form.inputs}
