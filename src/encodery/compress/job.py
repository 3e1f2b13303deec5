"""Compression as a job that wraps another one, whose batches, loss, held-out scores and saved model it keeps.

Beside the loss of the job there is that of a teacher (`distill/`); pruned weights are set to zero after every step
(`prune/`); linear layers compute with rounded numbers (`quantize/`). The saved model is an ordinary one of the wrapped
job: pruned weights are zeros, rounded weights are stored rounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from encodery.base.parts import name_of
from encodery.base.settings import encode
from encodery.compress.distill import DistillationModule
from encodery.compress.prune import RunningPruning
from encodery.compress.settings import CompressSettings
from encodery.compress.targets import folded, linear_layers, quantize
from encodery.model.digest import weights_digest
from encodery.objectives import Count, LossRange, LossTerm
from encodery.train.distributed import DistributedContext
from encodery.train.hooks import RunningHook
from encodery.train.job import Job, StepBatches, find_job
from encodery.train.loop import MODEL
from encodery.train.memory_estimate import MemoryEstimate
from encodery.train.recipe import Recipe
from encodery.train.settings import NEUTRAL_SETTINGS

JOB_PREFIX = "job."
COMPARED = 7
"""Copies of the predictions in memory while `distill/logits.py` compares those of two models, as measured: logits,
logits by the temperature and log-probabilities of both, and their products."""


class CompressJob(Job):
    """Args: `job`: the wrapped one, before its first step. `settings`: what is done. `teacher`: the job whose outputs
    the student learns, with its trained weights (None: none). `device`: where they run."""

    settings_type: ClassVar[type] = CompressSettings

    def __init__(self, job: Job, settings: CompressSettings, teacher: Job | None, device: torch.device) -> None:
        self.job, self.settings, self.teacher = job, settings, teacher
        self.model, self.progress = job.model, 0.0
        self.pruned: dict[str, Tensor] = {}
        self.pruning: RunningPruning | None = None
        if settings.prune is not None:
            layers = linear_layers(self.model.encoder)
            self.pruned = {name: layer.weight for name, (_, _, layer) in layers.items()}
        if settings.quantize is not None:
            quantize(self.model.encoder, settings.quantize)
        self.comparisons: dict[str, DistillationModule] = {}
        if teacher is not None:
            teacher.module.to(device).eval().requires_grad_(False)
            shapes = self.model.settings.shape, teacher.model.settings.shape
            self.comparisons = {name_of(part): part.build(*shapes) for part in settings.distill}
        self.module = nn.ModuleDict({"job": job.module, "distill": nn.ModuleDict(self.comparisons)})

    @classmethod
    def from_recipe(
        cls, recipe: Recipe[CompressSettings], distributed: DistributedContext, device: torch.device
    ) -> CompressJob:
        """See `Job`. Raises as the wrapped job does."""
        settings, trained = recipe.settings, Path(recipe.inputs["run"]) / MODEL
        inner = settings.job_recipe()

        def trained_job() -> Job:
            job_type = find_job(inner.job)
            job = job_type.from_recipe(job_type.with_model(inner, str(trained)), distributed, device)
            job.load_result(trained)
            return job

        if settings.model is None:
            job = trained_job()
        else:
            job_type = find_job(inner.job)
            job = job_type.from_recipe(job_type.with_model(inner, settings.model), distributed, device)
        teacher = trained_job() if settings.distill else None
        if teacher is not None:
            teacher.close()
        return cls(job, settings, teacher, device)

    @classmethod
    def memory_estimate(cls, recipe: Recipe[CompressSettings]) -> MemoryEstimate | None:
        """See `Job`. That of the wrapped job for the model that is trained; a teacher adds its weights, and the
        predictions of both with what their comparison keeps."""
        settings, inner = recipe.settings, recipe.settings.job_recipe()
        job_type = find_job(inner.job)
        if settings.model is not None:
            inner = job_type.with_model(inner, settings.model)
        estimate = job_type.memory_estimate(inner)
        if estimate is None or not settings.distill:
            return estimate
        files = (Path(recipe.inputs["run"]) / MODEL).rglob("*.safetensors")
        weights, compared = sum(file.stat().st_size for file in files), COMPARED * job_type.prediction_bytes(inner)
        return dataclasses.replace(
            estimate, memory=estimate.memory + weights + compared, activations=estimate.activations + compared
        )

    # Training

    def batches(self, step: int, progress: float, batch_tokens: int, max_length: int | None) -> StepBatches:
        """See `Job`."""
        self.progress = progress
        return self.job.batches(step, progress, batch_tokens, max_length)

    def counts(self, batch: Any) -> Mapping[str, Count]:
        """See `Job`."""
        return {**self.job.counts(batch), **{_term(name): self._count(name, batch) for name in self.comparisons}}

    def _count(self, name: str, batch: Any) -> Count:
        over_tokens = self.comparisons[name].mean_over == "tokens"
        return int(batch.tokens) if over_tokens else self.job.num_predictions(batch)

    def terms(self, batch: Any) -> Mapping[str, LossTerm]:
        """See `Job`. The teacher runs in evaluation mode, without a gradient, on the same prepared batch."""
        if self.teacher is None:
            return self.job.terms(batch)
        with torch.no_grad():
            _, expected = self.teacher.terms_and_outputs(batch)
        terms, outputs = self.job.terms_and_outputs(batch)
        weight = self.settings.task_weight
        combined = {name: dataclasses.replace(term, weight=term.weight * weight) for name, term in terms.items()}
        for part in self.settings.distill:
            name = name_of(part)
            loss = self.comparisons[name](outputs, expected)
            combined[_term(name)] = LossTerm(loss.sum(), self._count(name, batch), part.weight)
        return combined

    def hooks(self) -> Sequence[RunningHook]:
        """See `Job`. Pruning comes last, so that an average of the weights is pruned too."""
        if self.settings.prune is None:
            return self.job.hooks()
        self.pruning = self.settings.prune.build(self.pruned)
        return (*self.job.hooks(), self.pruning)

    def lr_scale(self, name: str) -> float:
        """See `Job`."""
        return self.job.lr_scale(name.removeprefix(JOB_PREFIX)) if name.startswith(JOB_PREFIX) else 1.0

    @property
    def num_parameters(self) -> int:
        """See `Job`."""
        return self.job.num_parameters

    def schedule_values(self, progress: float) -> dict[str, float]:
        """See `Job`."""
        return self.job.schedule_values(progress)

    @property
    def epoch_tokens(self) -> int:
        """See `Job`."""
        return self.job.epoch_tokens

    # Evaluation and the finished model

    def score(self, tokens: int) -> dict[str, float]:
        """See `Job`. Of the compressed model: pruned and rounded."""
        return self.job.score(tokens)

    def selection_metric(self, score: Mapping[str, float]) -> float | None:
        """See `Job`. Weights from before the final sparsity cannot be the best ones."""
        prune = self.settings.prune
        complete = prune is None or prune.is_complete(self.progress)
        return self.job.selection_metric(score) if complete else None

    def save(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        """See `Job`."""
        with folded(self.model.encoder):
            self.job.save(folder, {**metrics, **self._facts()})

    def metrics(self) -> dict[str, float]:
        """See `Job`."""
        return {**self.job.metrics(), **self._facts()}

    def _facts(self) -> dict[str, float]:
        return {} if self.pruning is None else {"sparsity": self.pruning.masks.sparsity}

    def warnings(self, dtype: torch.dtype) -> list[str]:
        """See `Job`."""
        return self.job.warnings(dtype)

    def expected_loss(self, tokens: int, steps: int) -> LossRange | None:
        """See `Job`. Unknown: the model had been trained before."""
        return None

    # Resuming

    def identity(self) -> dict[str, Any]:
        """See `Job`. That of the wrapped job, what is done to it, and the weights of the teacher."""
        table = encode(self.settings)
        own = {name: table[name] for name in ("distill", "task_weight", "prune", "quantize")}
        train = {name: value for name, value in table["train"].items() if name not in NEUTRAL_SETTINGS}
        teacher = None if self.teacher is None else weights_digest(self.teacher.module.state_dict())
        job = {name: value for name, value in self.job.identity().items() if name != "train"}
        return {"job": job, **own, "train": train, "teacher": teacher}

    def state(self) -> dict[str, Any]:
        """See `Job`."""
        return {"job": self.job.state(), "progress": self.progress}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Job`."""
        self.progress = state["progress"]
        self.job.load_state(state["job"])

    def close(self) -> None:
        """See `Job`."""
        self.job.close()


def _term(name: str) -> str:
    """The name of the loss term of a comparison."""
    return f"distill_{name}"
