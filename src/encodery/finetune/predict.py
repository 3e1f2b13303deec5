"""Predictions of a fine-tuned model: rows to labels, tags, spans, scores; in packed batches of similar lengths.

Shapes: R rows, E examples, T tokens of a batch, N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.base.parts import name_of
from encodery.finetune.artifact import load_head
from encodery.finetune.examples import Examples
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Answer, Rows, TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.load import LoadedModel
from encodery.model.network import Model
from encodery.runtimes.packed_encoder import accelerate
from encodery.tokens.windows import batches_by_length, parse_truncate

BATCH_TOKENS = 4096


@dataclass(frozen=True, eq=False)
class Predictions:
    """`answers` (R). `tokens` (R,): tokens read of each row, special ones included. `dropped_tokens` (R,): cut off."""

    answers: list[Answer]
    tokens: np.ndarray
    dropped_tokens: np.ndarray


@dataclass(eq=False)
class Predictor:
    """A fine-tuned model that answers rows.

    Use it to run what `encodery finetune` wrote:

        predictor = Predictor.from_model(load_model("classifier"))
        predictor.predict(["The parcel never arrived."]).answers[0]["prediction"]
    """

    model: Model
    module: TaskModule
    task: Task
    preprocessor: Preprocessor
    metadata: TaskMetadata
    calibration: Mapping[str, float]
    device: torch.device

    @classmethod
    def from_model(cls, loaded: LoadedModel, device: torch.device | str | None = None) -> Predictor:
        """Make a predictor of a loaded model. Raises as `artifact.load_head`.

        `device` (absent: the fastest one).
        """
        head = load_head(loaded)
        target = machine.device() if device is None else torch.device(device)
        preprocessor = head.preprocessor(loaded)
        model, module = loaded.model.to(target).eval(), head.module.to(target).eval()
        return cls(accelerate(model), module, head.task, preprocessor, head.metadata, head.calibration, target)

    def predict(
        self,
        rows: Rows | Sequence[str],
        truncate: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Return the answers for rows, given as columns by role or as plain texts. Texts may be empty.

        `truncate`: error, right, left or chunk (absent: as in training). `batch_tokens`: most tokens computed at once.
        `progress` is called after each batch with its number of examples.
        Raises `InputError` for missing roles, and for a row that is too long under "error".
        """
        columns = self._columns(rows)
        policy = self.preprocessor.truncate if truncate is None else parse_truncate(truncate)
        examples = self.task.prepare(columns, replace(self.preprocessor, truncate=policy), self.metadata, False)
        if not examples.num_rows:
            return Predictions([], np.zeros(0, np.int64), examples.dropped_tokens)
        outputs = self.outputs(examples, batch_tokens, progress)
        answers = self.task.decode(outputs, examples, columns, self.metadata, self.calibration)
        return Predictions(answers, examples.row_lengths.astype(np.int64), examples.dropped_tokens)

    def outputs(
        self,
        examples: Examples,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], None] | None = None,
    ) -> list[np.ndarray]:
        """Return the module's output for each example (E): (C,), or (S, C) or (T, C) of its sequences or tokens."""
        if batch_tokens < 1:
            raise InputError(f"batch_tokens = {batch_tokens}: must be at least 1.")
        parts_per_example = {"example": None, "sequence": examples.num_sequences, "token": examples.lengths}
        sizes = parts_per_example[self.module.granularity]
        output_of: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for indices in batches_by_length(examples.lengths, batch_tokens):
                batch = examples.batch(indices).to(self.device)
                outputs: np.ndarray = self.module(self.model(batch), batch).float().cpu().numpy()
                parts = outputs if sizes is None else np.split(outputs, sizes[indices].cumsum()[:-1])
                output_of.update(zip(indices.tolist(), parts, strict=True))
                if progress is not None:
                    progress(len(indices))
        return [output_of[index] for index in range(len(examples))]

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """Return (N,) float64 how well each text answers the query, for a model of the task `rank`; higher is better.

        Raises `InputError` for a model of another task.
        """
        if name_of(self.task) != "rank":
            raise InputError(
                f"Scoring texts needs a model of the task 'rank'; this model has the task '{name_of(self.task)}'."
            )
        answers = self.predict({"query": [query] * len(texts), "text": list(texts)}).answers
        return np.array([answer["logit"] for answer in answers], np.float64)

    def _columns(self, rows: Rows | Sequence[str]) -> Rows:
        """Return the columns that the task reads."""
        if not isinstance(rows, Mapping):
            if isinstance(rows, str | bytes):
                raise InputError("A list of texts is needed, not a single text.")
            rows = {"text": list(rows)}
        schema = self.task.schema_for(list(rows), False)
        return {role: rows[role] for role in schema.inputs}
