"""Fine-tuning: an encoder and a task over labelled rows, as a job of the one loop.

The best weights on dev rows are kept. At the end the task is tuned on them (a temperature, a threshold), test rows are
judged once, and the run folder gets what its report draws: confusions, calibration, the most confident errors.
Shapes: E examples, R rows.
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
from encodery.base.settings import encode
from encodery.finetune import artifact
from encodery.finetune.data import LabelledData, read_data
from encodery.finetune.examples import Examples
from encodery.finetune.fine_tuned import FineTuned
from encodery.finetune.predict import Predictor
from encodery.finetune.prediction_details import prediction_details
from encodery.finetune.preprocess import Preprocessor
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.task_module import TaskModule
from encodery.finetune.task_types import Rows
from encodery.model import count
from encodery.model.load import LoadedModel, load_model
from encodery.model.network import Model, copy_for_training
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers
from encodery.tokens.windows import batches_by_length
from encodery.train.distributed import DistributedContext
from encodery.train.examples import ExampleJob
from encodery.train.lengths import attended_length, sample_tokens
from encodery.train.recipe import Recipe
from encodery.train.settings import NEUTRAL_SETTINGS, TrainSettings

DETAILS = "details.json"
SAMPLE_TOKENS = 50_000
"""Tokens of training rows that a head may learn from before the first step."""
LINEAR_STAGE = "linear"
"""What a recipe says, as its `stage`, of a run that `auto` fitted without a step (`auto.py`)."""


class FinetuneJob(ExampleJob):
    """The settings are whole by then (`settings.filled`)."""

    settings_type: ClassVar[type] = FinetuneSettings

    def __init__(
        self,
        settings: FinetuneSettings,
        loaded: LoadedModel,
        data: LabelledData,
        distributed: DistributedContext,
        device: torch.device,
        recipe: Recipe[FinetuneSettings] | None = None,
    ) -> None:
        self.settings, self.loaded, self.data, self.device = settings, loaded, data, device
        self.recipe, self.final_metrics = {} if recipe is None else recipe.encode(), dict[str, Any]()
        self.task, seed = settings.task, settings.train.seed
        self.metadata = self.task.fit_metadata(data.train, loaded.tokenizer)
        self.preprocessor = preprocessor_for(settings, loaded)
        self.examples = self.task.prepare(data.train, self.preprocessor, self.metadata, True)
        self.dev = None if data.dev is None else (data.dev, self._read(data.dev))
        self.model = copy_for_training(loaded.model, settings.dropout)
        inject(self.model, settings.adapt, seed)
        if self.task.uses_mlm_head:
            _ = self.model.mlm_head  # Without such a head there is no answer.
        else:
            self.model.heads.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "task"))
            self.head: TaskModule = self.task.build(self.model.settings.shape, self.metadata)
        self.module: nn.Module = nn.ModuleDict({"model": self.model, "task": self.head}).to(device)
        self.flops_of = functools.cache(functools.partial(count.flops_per_token, loaded.model.settings))
        batch = min(settings.batch or 1, len(self.examples))
        self.set_examples(self.examples.lengths, batch, settings.train, distributed)
        self.head.fit(lambda: encoded_sample(self.model, self.examples, device, settings.train))

    @classmethod
    def from_recipe(
        cls, recipe: Recipe[FinetuneSettings], distributed: DistributedContext, device: torch.device
    ) -> FinetuneJob:
        """See `Job`. Raises `ArtifactError` where model or data are gone, and for a head that was fitted at once."""
        if recipe.stage == LINEAR_STAGE:
            raise ArtifactError("recipe.json: its linear head was fitted at once; there is nothing to go on with.")
        data = read_data(recipe.inputs["data"], recipe.settings)
        return cls(recipe.settings, load_model(recipe.inputs["model"]), data, distributed, device, recipe)

    # What is learned from

    def collate(self, indices: Integers, seed: int) -> Batch:
        """See `ExampleJob`."""
        batch = self.examples.batch(indices)
        return batch if self.device.type == "cpu" else batch.to(self.device, non_blocking=True)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """See `Job`."""
        return self.head.counts(batch)

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """See `Job`. The loss is computed in fp32 whatever the model's format."""
        predicted = self.head(self.model(batch), batch)
        with torch.autocast(self.device.type, enabled=False):
            return self.head.loss(predicted.float(), batch)

    def lr_scale(self, name: str) -> float:
        """See `Job`."""
        words = self.settings.embedding_lr_scale if name.startswith("model.encoder.embeddings.") else None
        return (words or 1.0) * self.settings.layer_decay ** blocks_above(name, self.model.settings.depth)

    def flops(self, batch: Batch) -> float:
        """See `ExampleJob`."""
        return batch.tokens * self.flops_of(attended_length(batch.cu_seqlens.diff().cpu()), 0.0)

    # Figures

    def score(self, tokens: int) -> dict[str, float]:
        """Figures of dev rows, as `dev_…`; of as many as hold so many tokens, the same ones each time."""
        if self.dev is None:
            return {}
        rows, examples = self._some(tokens)
        outputs = self._outputs(self._predictor(self.model), examples)
        tuned = self.task.calibrate(outputs, examples, rows, self.metadata)
        answers = self.task.decode(outputs, examples, rows, self.metadata, tuned)
        return {f"dev_{name}": value for name, value in self.task.metrics(answers, rows, self.metadata).items()}

    @functools.lru_cache(maxsize=2)  # noqa: B019, the cache lives as long as the run
    def _some(self, tokens: int) -> tuple[Rows, Examples]:
        """Dev rows that hold about so many tokens."""
        assert self.dev is not None
        rows, examples = self.dev
        some = sample_tokens(_row_lengths(examples), tokens, derive_seed(self.train.seed, "dev"))
        if len(some) == examples.num_rows:
            return rows, examples
        rows = {role: [values[row] for row in some] for role, values in rows.items()}
        return rows, self._read(rows)

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        """See `Job`."""
        return score.get(f"dev_{self.task.selection_metric}")

    def metrics(self) -> dict[str, float]:
        """`epoch`, and at the end what was found by then."""
        return {**super().metrics(), **self.final_metrics}

    # What is left of it

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """The model with its task; figures of the test rows; what the report draws, beside the model."""
        model = merge_and_unload(self.model, self.settings.adapt)
        predictor = self._predictor(model)
        drawn = dict[str, Any]()
        if self.dev is not None:
            rows, examples = self.dev
            outputs = self._outputs(predictor, examples)
            predictor.calibration = self.task.calibrate(outputs, examples, rows, self.metadata)
            answers = self.task.decode(outputs, examples, rows, self.metadata, predictor.calibration)
            drawn["dev"] = prediction_details(self.task, answers, rows, self.metadata)
            self.final_metrics |= self._named("tuned_dev", self.task.metrics(answers, rows, self.metadata))
        if self.data.test is not None:
            rows, examples = self.data.test, self._read(self.data.test)
            answers = self.task.decode(
                self._outputs(predictor, examples), examples, rows, self.metadata, predictor.calibration
            )
            drawn["test"] = prediction_details(self.task, answers, rows, self.metadata)
            self.final_metrics |= self._named("test", self.task.metrics(answers, rows, self.metadata))
        done, dropped = metrics.get("tokens", 0), self.examples.dropped_tokens
        shared = self.examples.num_rows / len(self.examples)
        if done and "tokens_per_s" in metrics:
            self.final_metrics["samples_per_s"] = metrics["tokens_per_s"] / done * self.position * shared
        self.final_metrics |= {"rows": self.examples.num_rows, "dropped_tokens": int(dropped.sum())}
        self.final_metrics |= {f"tuned_{name}": value for name, value in predictor.calibration.items()}
        found = FineTuned(
            self.task,
            self.head,
            self.metadata,
            predictor.calibration,
            self.preprocessor.max_length,
            self.preprocessor.truncate,
        )
        artifact.save(folder, model, found, self.loaded, self.recipe, {**metrics, **self.final_metrics})
        text = json.dumps({"notes": self.data.notes, **drawn}, indent=1, ensure_ascii=False)
        atomic_write(folder.parent / DETAILS, text + "\n")

    def identity(self) -> dict[str, Any]:
        """Every setting on which the weights depend, and the fingerprints of data and model."""
        table: dict[str, Any] = {**encode(self.settings), "data": self.data.fingerprint}
        made = self.loaded.artifact
        table["model"] = str(self.loaded.path) if made is None else made.manifest.fingerprint
        table["train"] = {key: value for key, value in table["train"].items() if key not in NEUTRAL_SETTINGS}
        return table

    def _read(self, rows: Rows) -> Examples:
        return self.task.prepare(rows, self.preprocessor, self.metadata, False)

    def _predictor(self, model: Model) -> Predictor:
        return Predictor(model, self.head, self.task, self.preprocessor, self.metadata, {}, self.device)

    def _outputs(self, predictor: Predictor, examples: Examples) -> list[np.ndarray]:
        training = self.module.training
        predictor.model.eval()
        self.head.eval()
        found = predictor.outputs(examples, self.train.micro_batch_tokens)
        predictor.model.train(training)
        self.head.train(training)
        return found

    def _named(self, split: str, figures: Mapping[str, float]) -> dict[str, float]:
        return {f"{split}_{name}": value for name, value in figures.items()}


def preprocessor_for(settings: FinetuneSettings, loaded: LoadedModel) -> Preprocessor:
    """How texts are read for a model."""
    model = loaded.model.settings
    return Preprocessor(
        loaded.tokenizer,
        settings.effective_max_length(model.max_length),
        model.type_vocab_size > 1,
        settings.effective_truncate,
    )


def encoded_sample(
    model: Model, examples: Examples, device: torch.device, train: TrainSettings
) -> Iterator[tuple[Output, Batch]]:
    """What a model, in evaluation, gives for batches of as many rows as hold `SAMPLED` tokens, drawn once."""
    rows = sample_tokens(_row_lengths(examples), SAMPLE_TOKENS, derive_seed(train.seed, "states"))
    some = np.flatnonzero(np.isin(examples.row, rows))
    training = model.training
    model.eval()
    with torch.inference_mode():
        for numbers in batches_by_length(examples.lengths[some], train.micro_batch_tokens):
            batch = examples.batch(some[numbers]).to(device)
            yield model(batch), batch
    model.train(training)


def blocks_above(name: str, depth: int) -> int:
    """How many blocks the rate of a parameter of the job's module shrinks for: 0 of the highest block and of all that
    reads it, `depth` of the embeddings. Weights that blocks share are the lowest one's."""
    found = re.match(r"model\.encoder\.(?:blocks\.(\d+)\.|(final_norm)\.|)", name)
    if found is None or found[2]:
        return 0
    return depth - 1 - int(found[1]) if found[1] else depth


def _row_lengths(examples: Examples) -> np.ndarray:
    """Tokens (R,) of each row, over all its windows."""
    return np.bincount(examples.row, weights=examples.lengths, minlength=examples.num_rows)
