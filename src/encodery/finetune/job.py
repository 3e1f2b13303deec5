"""Fine-tuning: an encoder and a task on labelled rows, as a job of the training loop.

The best weights on dev rows are kept. At the end the task is calibrated on dev rows (a temperature, a threshold), test
rows are evaluated once, and the run folder gets what its report shows: confusions, calibration, the most confident
errors. Shapes: E examples, R rows.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from encodery.adapt import inject, merge_and_unload
from encodery.base.artifact import atomic_write
from encodery.base.errors import ArtifactError
from encodery.base.machine import derive_seed
from encodery.base.parts import name_of
from encodery.finetune import artifact
from encodery.finetune.data import read_data
from encodery.finetune.evaluation import dev_metrics, evaluate_splits
from encodery.finetune.examples import Examples
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.predict import Predictor
from encodery.finetune.prepared import PreparedData, prepare_data
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Rows
from encodery.model import count
from encodery.model.load import load_model
from encodery.model.network import Model, copy_for_training
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers
from encodery.tokens.windows import batches_by_length
from encodery.train.distributed import DistributedContext
from encodery.train.example_plan import PreparedJob
from encodery.train.job import JobOutputs
from encodery.train.lengths import attended_length, sample_tokens
from encodery.train.recipe import Recipe
from encodery.train.settings import TrainSettings

DETAILS = "details.json"
SAMPLE_TOKENS = 50_000
"""Tokens of training rows from which a head is fitted before the first step."""
LINEAR_STAGE = "linear"
"""The `stage` of a recipe whose head `auto` fitted without training (`auto.py`)."""


class FinetuneJob(PreparedJob[FinetuneSettings, PreparedData]):
    """Fine-tunes a model on prepared data. The settings must be complete (`settings.complete_settings`)."""

    settings_type: ClassVar[type] = FinetuneSettings

    def __init__(
        self,
        settings: FinetuneSettings,
        prepared: PreparedData,
        distributed: DistributedContext,
        device: torch.device,
        recipe: Recipe[FinetuneSettings] | None = None,
    ) -> None:
        self.settings, self.prepared, self.device = settings, prepared, device
        self.loaded, self.data, self.examples = prepared.loaded, prepared.data, prepared.examples
        self.preprocessor, self.metadata = prepared.preprocessor, prepared.metadata
        self.recipe, self.final_metrics = {} if recipe is None else recipe.encode(), dict[str, Any]()
        self.task, seed = settings.task, settings.train.seed
        self.dev = prepared.dev
        self.model = copy_for_training(self.loaded.model, settings.dropout)
        inject(self.model, settings.adapt, seed)
        if self.task.uses_mlm_head:
            _ = self.model.mlm_head  # Raises for a model without one.
        else:
            self.model.heads.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "task"))
            self.head: TaskModule = self.task.build(self.model.settings.shape, self.metadata)
        self.module: nn.Module = nn.ModuleDict({"model": self.model, "task": self.head}).to(device)
        self.flops_of = functools.cache(functools.partial(count.flops_per_token, self.loaded.model.settings))
        batch = min(settings.batch or 1, len(self.examples))
        self.set_examples(self.examples.lengths, batch, settings.train, distributed)
        self.head.fit(lambda: encoded_sample(self.model, self.examples, device, settings.train))

    @classmethod
    def prepare(cls, recipe: Recipe[FinetuneSettings]) -> PreparedData:
        """See `PreparedJob`.

        Raises `ArtifactError` if model or data no longer exist, and for a head that `auto` fitted without training.
        """
        if recipe.stage == LINEAR_STAGE:
            raise ArtifactError("recipe.json: its linear head was fitted in one step; there is nothing to resume.")
        loaded, data = load_model(recipe.inputs["model"]), read_data(recipe.inputs["data"], recipe.settings)
        return prepare_data(recipe.settings, loaded, data)

    # Training

    def collate(self, indices: Integers, seed: int) -> Batch:
        """See `ExampleJob`."""
        batch = self.examples.batch(indices)
        return batch if self.device.type == "cpu" else batch.to(self.device, non_blocking=True)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """See `Job`."""
        return self.head.counts(batch)

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """See `Job`. The loss is computed in fp32 in every number format of the model."""
        return self.terms_and_outputs(batch)[0]

    def terms_and_outputs(self, batch: Batch) -> tuple[Mapping[str, LossTerm], JobOutputs]:
        """See `Job`."""
        output = self.model(batch)
        predicted = self.head(output, batch)
        with torch.autocast(self.device.type, enabled=False):
            terms = self.head.loss(predicted.float(), batch)
        return terms, JobOutputs(output.hidden, predicted.float(), self.head.is_softmax)

    def num_predictions(self, batch: Batch) -> Count:
        """See `Job`."""
        rows = {"example": len(batch.extra["sizes"]), "sequence": len(batch), "token": batch.tokens}
        return rows[self.head.granularity]

    def load_result(self, folder: Path) -> None:
        """See `Job`. Loads the head, which must be of the same task and labels."""
        head = artifact.load_head(load_model(folder))
        if name_of(head.task) != name_of(self.task) or head.metadata != self.metadata:
            raise ArtifactError(f"{folder}: its head is for other labels than the data, or for another task.")
        self.head.load_state_dict(head.module.state_dict())

    def lr_scale(self, name: str) -> float:
        """See `Job`."""
        embeddings = self.settings.embedding_lr_scale if name.startswith("model.encoder.embeddings.") else None
        return (embeddings or 1.0) * self.settings.layer_decay ** blocks_above(name, len(self.model.encoder.blocks))

    def flops(self, batch: Batch) -> float:
        """See `ExampleJob`."""
        return batch.tokens * self.flops_of(attended_length(batch.cu_seqlens.diff().cpu()), 0.0)

    # Evaluation

    def score(self, tokens: int) -> dict[str, float]:
        """See `Job`. Metrics of as many dev rows as hold `tokens` tokens, the same rows each time."""
        if self.dev is None:
            return {}
        rows, examples = self._dev_sample(tokens)
        return dev_metrics(self._predictor(self.model), rows, examples, self.train.micro_batch_tokens)

    @functools.lru_cache(maxsize=2)  # noqa: B019, the cache lives as long as the run
    def _dev_sample(self, tokens: int) -> tuple[Rows, Examples]:
        """Return dev rows that hold about `tokens` tokens."""
        assert self.dev is not None
        rows, examples = self.dev
        sample = sample_tokens(examples.row_lengths, tokens, derive_seed(self.train.seed, "dev"))
        if len(sample) == examples.num_rows:
            return rows, examples
        rows = {role: [values[row] for row in sample] for role, values in rows.items()}
        return rows, examples.of_rows(sample)

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        """See `Job`."""
        return score.get(f"dev_{self.task.selection_metric}")

    def metrics(self) -> dict[str, float]:
        """Return `epoch`, and at the end the final metrics."""
        return {**super().metrics(), **self.final_metrics}

    # The finished model

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """See `Job`. Writes the model with its task, and beside it the details of dev and test rows."""
        model = merge_and_unload(self.model, self.settings.adapt)
        final = evaluate_splits(self._predictor(model), self.dev, self.prepared.test, self.train.micro_batch_tokens)
        self.final_metrics |= {**final.metrics, **self._data_metrics(metrics)}
        reads = self.preprocessor
        head = FineTuned(self.task, self.head, self.metadata, final.calibration, reads.max_length, reads.truncate)
        artifact.save(folder, model, head, self.loaded, self.recipe, {**metrics, **self.final_metrics})
        text = json.dumps({"notes": self.data.notes, **final.details}, indent=1, ensure_ascii=False)
        atomic_write(folder.parent / DETAILS, text + "\n")

    def _data_metrics(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return numbers of training rows and dropped tokens, and the rows per second if tokens were timed."""
        data: dict[str, float] = {
            "rows": self.examples.num_rows,
            "dropped_tokens": int(self.examples.dropped_tokens.sum()),
        }
        if not metrics.get("tokens") or "tokens_per_s" not in metrics:
            return data
        rows_seen = self.position * self.examples.num_rows / len(self.examples)
        return {"samples_per_s": metrics["tokens_per_s"] / metrics["tokens"] * rows_seen, **data}

    def _predictor(self, model: Model) -> Predictor:
        return Predictor(model, self.head, self.task, self.preprocessor, self.metadata, {}, self.device)


def encoded_sample(
    model: Model, examples: Examples, device: torch.device, train: TrainSettings
) -> Iterator[tuple[Output, Batch]]:
    """Yield the model's outputs in evaluation mode for batches of rows that hold about `SAMPLE_TOKENS` tokens."""
    rows = sample_tokens(examples.row_lengths, SAMPLE_TOKENS, derive_seed(train.seed, "states"))
    sample = np.flatnonzero(np.isin(examples.row, rows))
    training = model.training
    model.eval()
    with torch.inference_mode():
        for indices in batches_by_length(examples.lengths[sample], train.micro_batch_tokens):
            batch = examples.batch(sample[indices]).to(device)
            yield model(batch), batch
    model.train(training)


def blocks_above(name: str, depth: int) -> int:
    """Return by how many factors of `layer_decay` the learning rate of a parameter of the job's module is reduced.

    0 for the highest block and everything that reads its output, `depth` for the embeddings. Weights that several
    blocks share count as those of the lowest.
    """
    match = re.match(r"model\.encoder\.(?:blocks\.(\d+)\.|(final_norm)\.|)", name)
    if match is None or match[2]:
        return 0
    return depth - 1 - int(match[1]) if match[1] else depth
