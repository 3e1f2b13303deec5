"""Training of embeddings: a model, an objective and examples of several texts, as a job of the one training loop.

The weights with the best dev metric are kept, and the test examples are evaluated once, with these.
Shapes: E examples, C columns, B examples of a batch, P texts.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from encodery.adapt import inject, merge_and_unload
from encodery.base.artifact import atomic_write
from encodery.base.errors import SettingsError
from encodery.base.machine import derive_seed
from encodery.embed.heldout_metrics import METRIC_NAMES
from encodery.embed.objective_context import ObjectiveContext
from encodery.embed.prepared import PreparedTexts, prepare_texts
from encodery.embed.reading import read_data
from encodery.embed.training import EmbedTraining
from encodery.embed.training_texts import StepInfo, TrainingTexts
from encodery.encoders.loading import load_dense
from encodery.model import count
from encodery.model.load import Provenance, load_model, save_model
from encodery.model.network import Model, copy_for_training, model_of_state
from encodery.model.shape import Batch
from encodery.objectives import Count, LossTerm
from encodery.tokens.shuffle import Integers
from encodery.train.distributed import DistributedContext
from encodery.train.example_plan import PreparedJob
from encodery.train.job import StepBatches
from encodery.train.lengths import attended_length
from encodery.train.loop import FINAL_EVAL_FACTOR
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.recipe import Recipe

DETAILS = "details.json"
LATER = 1e-9  # By how much a dev metric counts for more after each epoch: of equal ones the last is the best.


class EmbedJob(PreparedJob[EmbedTraining, PreparedTexts]):
    """Trains embeddings with the objective of its settings.

    Args:
        settings: with the loss, where the objective learns from one.
        prepared: the tokenised examples, and the model that training starts from.
        distributed: the processes of the run.
        device: where the model is trained.
        recipe: what is stored with the model.
    """

    settings_type: ClassVar[type] = EmbedTraining

    def __init__(
        self,
        settings: EmbedTraining,
        prepared: PreparedTexts,
        distributed: DistributedContext,
        device: torch.device,
        recipe: Recipe[EmbedTraining] | None = None,
    ) -> None:
        self.settings, self.prepared, self.device = settings, prepared, device
        self.loaded, self.data, train = prepared.loaded, prepared.data, prepared.train
        self.recipe = {} if recipe is None else recipe.encode()
        self.test_metrics, self.step_info = dict[str, float](), StepInfo()
        self.model = copy_for_training(self.loaded.model, settings.dropout)
        self.model.heads.requires_grad_(False)
        inject(self.model, settings.adapt, settings.train.seed)
        self.model.to(device)
        batch_size = min(settings.batch_size_for(len(train)), len(train))
        self.objective = settings.objective.build(self._context(batch_size, distributed))
        self.in_batch = self.objective.in_batch
        self.texts = self._training_texts()
        self.dev, self.test = prepared.dev, prepared.test
        self.flops_of = functools.cache(
            functools.partial(count.flops_per_token, dataclasses.replace(self.model.settings))
        )
        self.set_examples(self.texts.lengths, batch_size, settings.train, distributed)
        self.objective_warnings = self.objective.fit(self.texts)
        self.module: nn.Module = nn.ModuleDict({"model": self.model, **self.objective.modules})

    def _context(self, batch_size: int, distributed: DistributedContext) -> ObjectiveContext:
        settings = self.settings
        return ObjectiveContext(
            loaded=self.loaded,
            model=self.model,
            device=self.device,
            distributed=distributed,
            encoder=settings.encoder,
            loss=settings.loss,
            batch_size=batch_size,
            micro_batch_tokens=settings.train.micro_batch_tokens,
            seed=settings.train.seed,
            gather=settings.gather_across_devices,
            random_span_mask=settings.random_span_mask,
            trains_whole_model=settings.adapt is None,
        )

    @classmethod
    def memory_estimate(cls, recipe: Recipe[EmbedTraining]) -> MemoryEstimate:
        """See `Job`. Texts are taken to be as long as the recipe's steps say."""
        settings, model = recipe.settings, load_model(recipe.inputs["model"], verify=False).model.settings
        step = round(settings.train.batch_tokens.maximum)
        length = min(settings.max_tokens(model.max_length) + 2, max(step // (settings.batch or step), 1))
        activations = count.activation_bytes(model, min(settings.train.micro_batch_tokens, step), length, 0.0)
        copies = len(settings.hooks) + 1  # The best weights are kept as well.
        parameters, train = count.num_parameters(model), settings.train
        return MemoryEstimate.of(parameters, activations, copies, train.keep, train.optimizer_offload)

    @classmethod
    def prepare(cls, recipe: Recipe[EmbedTraining]) -> PreparedTexts:
        """See `PreparedJob`. Raises `ArtifactError` if the model is missing."""
        loaded = load_model(recipe.inputs["model"])
        return prepare_texts(recipe.settings, loaded, read_data(Path(recipe.inputs["data"]), recipe.settings, loaded))

    # Training

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """See `ExampleJob`."""
        loss = self.settings.loss
        layers: tuple[int, ...] = ()
        if loss is not None:
            layers = loss.sample_layers(self.model.settings.depth, derive_seed(self.train.seed, "layers", step))
        self.step_info = StepInfo(0, progress, layers)
        return super().batches(step, progress, batch_tokens, max_length)

    def collate(self, indices: Integers, seed: int) -> Batch:
        """See `ExampleJob`."""
        batch = self.objective.collate(self.texts, indices, dataclasses.replace(self.step_info, seed=seed))
        return batch if self.device.type == "cpu" else batch.to(self.device, non_blocking=True)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """See `Job`."""
        return self.objective.counts(batch)

    def terms(self, batch: Batch) -> Mapping[str, LossTerm]:
        """See `Job`."""
        return self.objective.terms(batch)

    def flops(self, batch: Batch) -> float:
        """See `ExampleJob`. Where chunks of a batch are run again, twice the forward pass more."""
        mean = attended_length(batch.cu_seqlens.diff().cpu())
        again = 4 / 3 if batch.tokens > self.train.micro_batch_tokens else 1.0
        return batch.tokens * self.flops_of(mean, 0.0) * again

    # Evaluation

    def score(self, tokens: int) -> dict[str, float]:
        """See `Job`. The same dev examples each time."""
        return {} if self.dev is None else self.dev.subset(tokens).metrics(self.objective.compare)

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        """See `Job`. Of equal metrics the later one counts for more: a metric of few dev examples soon reaches 1, and
        the weights that reach it first have learned the least."""
        metric = next((score[name] for name in METRIC_NAMES if name in score and name != "mrr"), None)
        if metric is None or not self.data.select_on_dev:
            return None
        return metric + LATER * self.position / len(self.lengths)

    def metrics(self) -> dict[str, float]:
        """See `Job`. `epoch`, and at the end the test metrics."""
        return {**super().metrics(), **self.test_metrics}

    def warnings(self, dtype: torch.dtype) -> list[str]:
        """See `Job`."""
        return [*super().warnings(dtype), *self.objective_warnings]

    # Saving

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """See `Job`. The model is saved before the test examples are evaluated, in case that fails."""
        self._save_model(folder, metrics)
        details: dict[str, Any] = {"notes": self.data.notes}
        dev = None if self.dev is None else self.dev.subset(self.train.eval_tokens * FINAL_EVAL_FACTOR)
        for name, heldout in (("dev", dev), ("test", self.test)):
            if heldout is not None and (heldout_metrics := heldout.metrics(self.objective.compare)):
                details[name] = {"rows": len(heldout), "metrics": heldout_metrics, "errors": []}
        if "test" in details:
            self.test_metrics |= {f"test_{name}": value for name, value in details["test"]["metrics"].items()}
        if metrics.get("tokens") and "tokens_per_s" in metrics:
            self.test_metrics["samples_per_s"] = metrics["tokens_per_s"] / metrics["tokens"] * self.position
        text = json.dumps(details, indent=1, ensure_ascii=False)
        atomic_write(folder.parent / DETAILS, text + "\n")

    def _save_model(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """The model with its encoder's settings and modules, and their golden values."""
        model = self.trained_model()
        stored = self.objective.encoder(model, self.texts).stored()
        save_model(
            folder,
            model,
            self.loaded.tokenizer_path,
            settings={"recipe": self.recipe, **stored.settings},
            modules=stored.modules,
            provenance=Provenance.of(self.loaded, keep_origin=True),
            metrics=metrics,
            overwrite=True,
        )

    def trained_model(self) -> Model:
        """Return the trained model on the CPU, adaptations merged in, with the dropout it had before."""
        merged = merge_and_unload(self.model, self.settings.adapt)
        state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in merged.state_dict().items()}
        return model_of_state(merged.settings, state)

    # Set-up

    def _training_texts(self) -> TrainingTexts:
        prepared, loss = self.prepared, self.settings.loss
        target = None if prepared.train.target is None else torch.from_numpy(prepared.train.target)
        guide = self._guide(prepared.pool.texts) if loss is not None and loss.needs_guide else None
        return TrainingTexts(prepared.pool, prepared.indices, target, guide)

    def _guide(self, texts: list[str]) -> np.ndarray:
        """(P, G) float16: the guide's embeddings of every text, once for all epochs."""
        if self.settings.guide is None:
            raise SettingsError("The loss needs the embeddings of a guide: name a model with guide=MODEL.")
        guide = load_dense(load_model(self.settings.guide), self.device)
        chunk = self.settings.truncate == "chunk"
        return guide.encode(texts, truncate="chunk" if chunk else "right").vectors.astype(np.float16)
