"""What a recipe of `encodery finetune` says, and the rules for what it leaves open.

The rules: a batch of 16 examples, 32 from 5,000 on and 64 from 50,000 on; as many epochs as 300 steps take, at least 3
(2 from 30,000 examples on) and at most 20, since few rows want many epochs (arXiv:2006.05987); AdamW at 5e-5 for a
width of 768 and a batch of 16, more the narrower the model and with the root of the batch, ten times as much where only
a small part of the model learns. The word table of a pre-norm classifier learns as many times as fast as its numbers
are larger than a fresh table's: Adam's steps are equally long wherever they begin (LAMB, arXiv:1904.00962, paces every
tensor so).
Shapes: E examples, H width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import decode, encode, merge_tables
from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.tasks import Task
from encodery.finetune.tasks.classify import TextClassification
from encodery.model.settings import ModelSettings
from encodery.tokens.windows import Truncate
from encodery.train.examples import settings_for_epochs
from encodery.train.hooks import Hook
from encodery.train.optim import Optimizer
from encodery.train.settings import TrainSettings

REFERENCE_WIDTH, REFERENCE_LR, REFERENCE_BATCH = 768, 5e-5, 16
INIT_RMS, MAX_EMBEDDING_LR_SCALE = (
    0.02,
    10.0,
)  # A fresh word table's root mean square; how many times as fast one may learn at most.
ADAPTER_LR_FACTOR = 10.0  # How many times the rate, where only a small part of the weights learns.
MIN_STEPS = 300
PATIENCE_FRACTION = 0.4  # Share of a run's scores in a row without a better one that ends it.
DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """`columns`: role -> column of the data, where the guess is wrong. `missing`: rows without a label are refused, or
    dropped when asked ("drop"). `heldout` and `test`: shares of the training rows that become dev and test rows, where
    the data has none (test rows only where they are 20 or more; `test = 0`: none).
    `max_length`: of a sequence with its special tokens (absent: the model's, at most 512). `truncate`: what happens to
    longer ones (absent: as the task usually does; what is cut is counted). `dropout` of hidden states in training; of
    attention weights there is none. `layer_decay`: the rate of each block is so many times that of the block above it,
    that of the embeddings so many times that of the lowest (arXiv:1801.06146, 2006.05987); the last norm and the task
    have the whole rate. `embedding_lr_scale`: how many times as fast the embeddings learn besides (absent: by the rule above).
    `adapt`: what of the model learns (absent: everything). `batch` examples a step and `epochs`, and `optim`: absent,
    by the rules above.
    """

    task: Task = field(default_factory=TextClassification)
    columns: dict[str, str] = field(default_factory=dict)
    missing: str = "error"
    heldout: float = 0.15
    test: float = 0.15
    max_length: int | None = None
    truncate: Truncate | None = None
    dropout: float = 0.1
    layer_decay: float = 1.0
    embedding_lr_scale: float | None = None
    adapt: Adaptation | None = None
    batch: int | None = None
    epochs: float | None = None
    optim: Optimizer | None = None
    train: TrainSettings = field(default_factory=TrainSettings)
    hooks: tuple[Hook, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout = {self.dropout}: must lie in 0 <= dropout < 1.")
        if not 0 < self.layer_decay <= 1:
            raise SettingsError(f"layer_decay = {self.layer_decay}: must lie in 0 < layer_decay <= 1.")
        if self.embedding_lr_scale is not None and not self.embedding_lr_scale > 0:
            raise SettingsError(f"embedding_lr_scale = {self.embedding_lr_scale}: must be more than 0.")
        if not 0 < self.heldout < 1:
            raise SettingsError(f"heldout = {self.heldout}: is a share of the rows, 0 < heldout < 1.")
        if not 0 <= self.test < 1 - self.heldout:
            raise SettingsError(f"test = {self.test}: is a share of the rows, 0 <= test < 1 - heldout.")
        if self.missing not in ("error", "drop"):
            raise SettingsError(f"missing = '{self.missing}': is error or drop.")
        if self.batch is not None and self.batch < 1:
            raise SettingsError(f"batch = {self.batch}: must be at least 1.")
        if self.epochs is not None and not self.epochs > 0:
            raise SettingsError(f"epochs = {self.epochs}: must be positive.")

    def effective_max_length(self, model_max_length: int) -> int:
        """Tokens of a sequence, special ones included. Raises `SettingsError` for more than the model takes."""
        if self.max_length is None:
            return min(model_max_length, DEFAULT_MAX_LENGTH)
        if self.max_length > model_max_length:
            raise SettingsError(f"max_length = {self.max_length}: the model takes {model_max_length} tokens.")
        return self.max_length

    @property
    def effective_truncate(self) -> Truncate:
        """What happens to what is too long."""
        return self.task.truncate if self.truncate is None else self.truncate


def initial_settings(task: str, overrides: Mapping[str, Any]) -> FinetuneSettings:
    """The settings as far as they are known before the data are read: those of a task with what is laid `over` them."""
    rest = {key: value for key, value in overrides.items() if key not in ("optim", "train")}
    return decode(FinetuneSettings, merge_tables({"task": {"is": task}}, rest))


def complete_settings(
    settings: FinetuneSettings,
    overrides: Mapping[str, Any],
    lengths: npt.ArrayLike,
    model: ModelSettings,
    embedding_rms: float,
) -> FinetuneSettings:
    """The same with what the rules say for examples of these lengths (E,) and such a model, whose word table has the
    root mean square `words`; `over` wins."""
    sizes = np.asarray(lengths, np.int64)
    batch = default_batch_size(len(sizes)) if settings.batch is None else settings.batch
    epochs = default_epochs(len(sizes), batch) if settings.epochs is None else settings.epochs
    light = settings.adapt is not None and settings.adapt.parameter_efficient
    post_norm = name_of(model.block) == "post"
    rate = default_lr(model.width, batch, light, post_norm)
    embedding_lr_scale = settings.embedding_lr_scale
    if embedding_lr_scale is None:
        embedding_lr_scale = (
            default_embedding_lr_scale(embedding_rms, post_norm)
            if isinstance(settings.task, ClassificationTask)
            else 1.0
        )
    evals = overrides.get("train", {}).get("evals", min(max(round(epochs), 5), 20))
    optim = merge_tables({"optim": {"is": "adamw", "lr": rate}}, {"optim": overrides.get("optim", {})})["optim"]
    train = {
        **settings_for_epochs(sizes, batch, epochs),
        "lr_schedule": "linear(warmup=10%)",
        # Every score is taken, so that which weights are the best does not depend on the clock; a score costs a third
        # of a step a token, and looks at no more than half as many tokens as an epoch has.
        "eval_time_fraction": 0.99,
        "evals": evals,
        "eval_tokens": max(int(sizes.sum()) // 2, 16_384),
        "patience": max(round(PATIENCE_FRACTION * evals), 3),
        "keep_pre_decay_checkpoint": False,
        **overrides.get("train", {}),
    }
    table = {
        **encode(settings),
        "batch": batch,
        "epochs": epochs,
        "embedding_lr_scale": embedding_lr_scale,
        "optim": optim,
        "train": train,
    }
    return decode(FinetuneSettings, table)


def default_batch_size(examples: int) -> int:
    """Examples a step."""
    return REFERENCE_BATCH if examples < 5_000 else 2 * REFERENCE_BATCH if examples < 50_000 else 4 * REFERENCE_BATCH


def default_epochs(examples: int, batch: int) -> float:
    """Epochs for so many examples."""
    return min(max(MIN_STEPS * batch / max(examples, 1), 3.0 if examples < 30_000 else 2.0), 20.0)


def default_lr(width: int, batch: int, parameter_efficient: bool, post_norm: bool) -> float:
    """The peak rate: that of a model of the usual width, and for a smaller one as many times more as its width is less;
    without norms on the residual path, which bear more, by the power 1.4 of that (measured at a width of 128)."""
    narrower = (REFERENCE_WIDTH / width) ** (1 if post_norm else 1.4)
    return round(
        REFERENCE_LR
        * narrower
        * math.sqrt(batch / REFERENCE_BATCH)
        * (ADAPTER_LR_FACTOR if parameter_efficient else 1.0),
        7,
    )


def default_embedding_lr_scale(embedding_rms: float, post_norm: bool) -> float:
    """How many times as fast a word table of the root mean square `words` learns. What a norm follows counts by its
    direction alone: the larger the numbers, the less a step turns them. Measured on classifiers with norms before their
    blocks (bench/LOG.md); for others it is 1."""
    return 1.0 if post_norm else round(min(max(embedding_rms / INIT_RMS, 1.0), MAX_EMBEDDING_LR_SCALE), 2)
