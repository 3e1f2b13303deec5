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
from typing import Any

import numpy as np
import torch
from torch import nn

from encodery.adapt import begin, finished
from encodery.base.artifact import atomic_write
from encodery.base.errors import ArtifactError
from encodery.base.machine import derive_seed
from encodery.base.settings import decode, encode
from encodery.finetune import artifact
from encodery.finetune.artifact import Tuned
from encodery.finetune.data import Data, read
from encodery.finetune.details import details
from encodery.finetune.examples import Examples
from encodery.finetune.predict import Predictor
from encodery.finetune.reader import Reader
from encodery.finetune.settings import FinetuneSettings
from encodery.finetune.tasks import Rows, TaskModule
from encodery.model import count
from encodery.model.load import Loaded, load_model
from encodery.model.network import Model, copied
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, Term
from encodery.tokens.shuffle import Integers
from encodery.tokens.windows import batches
from encodery.train.distributed import Team
from encodery.train.examples import ExampleJob
from encodery.train.settings import HARMLESS, TrainSettings

DETAILS = "details.json"
SAMPLED = 50_000
"""Tokens of training rows that a head may learn from before the first step."""
LINEAR = "linear"
"""What a recipe says, as its `stage`, of a run that `auto` fitted without a step (`auto.py`)."""


class FinetuneJob(ExampleJob):
    """The settings are whole by then (`settings.filled`)."""

    def __init__(
        self,
        settings: FinetuneSettings,
        loaded: Loaded,
        data: Data,
        team: Team,
        device: torch.device,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.loaded, self.data, self.device = settings, loaded, data, device
        self.recipe, self.final = dict(recipe or {}), dict[str, Any]()
        self.task, seed = settings.task, settings.train.seed
        self.known = self.task.study(data.train, loaded.tokenizer)
        self.reader = reader_of(settings, loaded)
        self.examples = self.task.prepare(data.train, self.reader, self.known, True)
        self.dev = None if data.dev is None else (data.dev, self._read(data.dev))
        self.model = copied(loaded.model, settings.dropout)
        begin(self.model, settings.adapt, seed)
        if self.task.speaks:
            _ = self.model.mlm  # Without such a head there is no answer.
        else:
            self.model.heads.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "task"))
            self.head: TaskModule = self.task.build(self.model.settings.shape, self.known)
        self.module: nn.Module = nn.ModuleDict({"model": self.model, "task": self.head}).to(device)
        self.flops_of = functools.cache(functools.partial(count.flops, loaded.model.settings))
        batch = min(settings.batch or 1, len(self.examples))
        self.lay_out(self.examples.lengths, batch, settings.train, team)
        self.head.fit(lambda: states(self.model, self.examples, device, settings.train))

    @classmethod
    def rebuild(cls, recipe: Mapping[str, Any], team: Team, device: torch.device) -> FinetuneJob:
        """See `Job`. Raises `ArtifactError` where model or data are gone, and for a head that was fitted at once."""
        if recipe.get("stage") == LINEAR:
            raise ArtifactError("recipe.json: its linear head was fitted at once; there is nothing to go on with.")
        table = {key: value for key, value in recipe.items() if key not in ("job", "recipe", "model", "data")}
        settings = decode(FinetuneSettings, table, "recipe.json")
        return cls(settings, load_model(recipe["model"]), read(recipe["data"], settings), team, device, recipe)

    # What is learned from

    def collate(self, numbers: Integers, seed: int) -> Batch:
        """See `ExampleJob`."""
        batch = self.examples.batch(numbers)
        return batch if self.device.type == "cpu" else batch.to(self.device, non_blocking=True)

    def counts(self, batch: Batch) -> Mapping[str, Count]:
        """See `Job`."""
        return self.head.counts(batch)

    def terms(self, batch: Batch) -> Mapping[str, Term]:
        """See `Job`. The loss is computed in fp32 whatever the model's format."""
        predicted = self.head(self.model(batch), batch)
        with torch.autocast(self.device.type, enabled=False):
            return self.head.loss(predicted.float(), batch)

    def pace(self, name: str) -> float:
        """See `Job`."""
        words = self.settings.word_rate if name.startswith("model.encoder.embeddings.") else None
        return (words or 1.0) * self.settings.layer_decay ** layers_above(name, self.model.settings.depth)

    def flops(self, batch: Batch) -> float:
        """See `ExampleJob`."""
        lengths = batch.cu_seqlens.diff().double()
        mean = round(float((lengths * lengths).sum()) / max(batch.tokens, 1) / 8) * 8
        return batch.tokens * self.flops_of(mean, 0.0)

    # Figures

    def score(self, tokens: int) -> dict[str, float]:
        """Figures of dev rows, as `dev_…`; of as many as hold so many tokens, the same ones each time."""
        if self.dev is None:
            return {}
        rows, examples = self._some(tokens)
        outputs = self._outputs(self._predictor(self.model), examples)
        tuned = self.task.tune(outputs, examples, rows, self.known)
        answers = self.task.decode(outputs, examples, rows, self.known, tuned)
        return {f"dev_{name}": value for name, value in self.task.figures(answers, rows, self.known).items()}

    @functools.lru_cache(maxsize=2)  # noqa: B019, the cache lives as long as the run
    def _some(self, tokens: int) -> tuple[Rows, Examples]:
        """Dev rows that hold about so many tokens."""
        assert self.dev is not None
        rows, examples = self.dev
        some = _enough(examples, tokens, derive_seed(self.train.seed, "dev"))
        if len(some) == examples.rows:
            return rows, examples
        rows = {role: [values[row] for row in some] for role, values in rows.items()}
        return rows, self._read(rows)

    def goal(self, score: Mapping[str, float]) -> float | None:
        """See `Job`."""
        return score.get(f"dev_{self.task.goal}")

    def figures(self) -> dict[str, float]:
        """`epoch`, and at the end what was found by then."""
        return {**super().figures(), **self.final}

    # What is left of it

    def save(self, folder: Path, figures: Mapping[str, Any]) -> None:
        """The model with its task; figures of the test rows; what the report draws, beside the model."""
        model = finished(self.model, self.settings.adapt)
        predictor = self._predictor(model)
        drawn = dict[str, Any]()
        if self.dev is not None:
            rows, examples = self.dev
            outputs = self._outputs(predictor, examples)
            predictor.tuned = self.task.tune(outputs, examples, rows, self.known)
            answers = self.task.decode(outputs, examples, rows, self.known, predictor.tuned)
            drawn["dev"] = details(self.task, answers, rows, self.known)
            self.final |= self._named("tuned_dev", self.task.figures(answers, rows, self.known))
        if self.data.test is not None:
            rows, examples = self.data.test, self._read(self.data.test)
            answers = self.task.decode(self._outputs(predictor, examples), examples, rows, self.known, predictor.tuned)
            drawn["test"] = details(self.task, answers, rows, self.known)
            self.final |= self._named("test", self.task.figures(answers, rows, self.known))
        done, dropped = figures.get("tokens", 0), self.examples.dropped
        shared = self.examples.rows / len(self.examples)
        if done and "tokens_per_s" in figures:
            self.final["samples_per_s"] = figures["tokens_per_s"] / done * self.position * shared
        self.final |= {"rows": self.examples.rows, "dropped_tokens": int(dropped.sum())}
        self.final |= {f"tuned_{name}": value for name, value in predictor.tuned.items()}
        found = Tuned(self.task, self.head, self.known, predictor.tuned, self.reader.longest, self.reader.truncate)
        artifact.save(folder, model, found, self.loaded, self.recipe, {**figures, **self.final})
        text = json.dumps({"notes": self.data.notes, **drawn}, indent=1, ensure_ascii=False)
        atomic_write(folder.parent / DETAILS, text + "\n")

    def identity(self) -> dict[str, Any]:
        """Every setting on which the weights depend, and the fingerprints of data and model."""
        table: dict[str, Any] = {**encode(self.settings), "data": self.data.fingerprint}
        made = self.loaded.artifact
        table["model"] = str(self.loaded.path) if made is None else made.manifest.fingerprint
        table["train"] = {key: value for key, value in table["train"].items() if key not in HARMLESS}
        return table

    def _read(self, rows: Rows) -> Examples:
        return self.task.prepare(rows, self.reader, self.known, False)

    def _predictor(self, model: Model) -> Predictor:
        return Predictor(model, self.head, self.task, self.reader, self.known, {}, self.device)

    def _outputs(self, predictor: Predictor, examples: Examples) -> list[np.ndarray]:
        training = self.module.training
        predictor.model.eval()
        self.head.eval()
        found = predictor.outputs(examples, self.train.micro_tokens)
        predictor.model.train(training)
        self.head.train(training)
        return found

    def _named(self, split: str, figures: Mapping[str, float]) -> dict[str, float]:
        return {f"{split}_{name}": value for name, value in figures.items()}


def reader_of(settings: FinetuneSettings, loaded: Loaded) -> Reader:
    """How texts are read for a model."""
    model = loaded.model.settings
    return Reader(loaded.tokenizer, settings.longest(model.max_length), model.segments > 1, settings.policy)


def states(
    model: Model, examples: Examples, device: torch.device, train: TrainSettings
) -> Iterator[tuple[Output, Batch]]:
    """What a model, in evaluation, gives for batches of as many rows as hold `SAMPLED` tokens, drawn once."""
    rows = _enough(examples, SAMPLED, derive_seed(train.seed, "states"))
    some = np.flatnonzero(np.isin(examples.row, rows))
    training = model.training
    model.eval()
    with torch.inference_mode():
        for numbers in batches(examples.lengths[some], train.micro_tokens):
            batch = examples.batch(some[numbers]).to(device)
            yield model(batch), batch
    model.train(training)


def layers_above(name: str, depth: int) -> int:
    """How many blocks the rate of a parameter of the job's module shrinks for: 0 of the highest block and of all that
    reads it, `depth` of the embeddings. Weights that blocks share are the lowest one's."""
    found = re.match(r"model\.encoder\.(?:blocks\.(\d+)\.|(final_norm)\.|)", name)
    if found is None or found[2]:
        return 0
    return depth - 1 - int(found[1]) if found[1] else depth


def _enough(examples: Examples, tokens: int, seed: int) -> np.ndarray:
    """Numbers of rows, drawn once and in order, that hold about so many tokens."""
    lengths = np.bincount(examples.row, weights=examples.lengths, minlength=examples.rows)
    order = np.random.default_rng(seed).permutation(examples.rows)
    count = int(np.searchsorted(np.cumsum(lengths[order]), tokens)) + 1
    return np.sort(order[:count])
