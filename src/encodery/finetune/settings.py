"""The settings of `encodery finetune`, and the rules for those that the user leaves open.

The rules: 16 examples a step, 32 from 5,000 examples on and 64 from 50,000 on; as many epochs as 300 steps take, at
least 3 (2 from 30,000 examples on) and at most 20, since few rows need many epochs (arXiv:2006.05987). AdamW at 5e-5
for a width of 768 and a batch of 16, higher for narrower models and with the root of the batch, ten times as high if
only a small part of the model is trained. The embeddings of a pre-norm classifier get a learning rate that is as many
times higher as their values are larger than freshly initialised ones: the step size of Adam does not depend on the
scale of the weights (LAMB, arXiv:1904.00962, scales the steps of every tensor in this way).
Shapes: E examples, H width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from encodery.adapt import Adaptation
from encodery.base.errors import SettingsError
from encodery.base.parts import name_of
from encodery.base.settings import check_at_least, check_interval, decode, encode, merge_tables
from encodery.finetune.heads.classification import ClassificationTask
from encodery.finetune.tasks import Task
from encodery.finetune.tasks.classify import TextClassification
from encodery.model.settings import ModelSettings
from encodery.tokens.windows import Truncate
from encodery.train.example_plan import evaluation_settings, settings_for_epochs
from encodery.train.hooks import Hook
from encodery.train.optim import Optimizer
from encodery.train.settings import TrainSettings

REFERENCE_WIDTH, REFERENCE_LR, REFERENCE_BATCH = 768, 5e-5, 16
INIT_RMS = 0.02
"""Root mean square of freshly initialised embeddings."""
MAX_EMBEDDING_LR_SCALE = 10.0
ADAPTER_LR_FACTOR = 10.0
"""Factor of the learning rate if only a small part of the weights is trained."""
MIN_STEPS = 300
PATIENCE_FRACTION = 0.4
"""Fraction of a run's evaluations in a row without improvement that ends it."""
DEFAULT_MAX_LENGTH = 512
MIN_EVALS, MAX_EVALS, MIN_PATIENCE, MIN_EVAL_TOKENS = 5, 20, 3, 16_384


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """`columns`: role → column of the data, where the assignment by name is wrong. `missing`: rows without a label are
    an error, or are dropped ("drop"). `heldout` and `test`: fractions of the training rows that become dev and test
    rows if the data has none (test rows only if they are 20 or more; `test = 0`: none).
    `max_length`: tokens of a sequence, special tokens included (absent: the model's, at most 512). `truncate`: the
    policy for longer texts (absent: that of the task; what is cut off is counted). `dropout` of hidden states in
    training; attention weights have none. `layer_decay`: the learning rate of each block relative to the block above
    it, and of the embeddings relative to the lowest block (arXiv:1801.06146, 2006.05987); the last norm and the task
    have the full learning rate. `embedding_lr_scale`: a further factor for the embeddings (absent: by the rule above).
    `adapt`: the part of the model that is trained (absent: all of it). `batch` examples a step, `epochs` and `optim`:
    absent, by the rules above.
    """

    task: Task = field(default_factory=TextClassification)
    columns: dict[str, str] = field(default_factory=dict)
    missing: Literal["error", "drop"] = "error"
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
        check_interval(self, "0 <= x < 1", "dropout", "test")
        check_interval(self, "0 < x <= 1", "layer_decay")
        check_interval(self, "0 < x", "embedding_lr_scale", "epochs")
        check_interval(self, "0 < x < 1", "heldout")
        check_at_least(self, 1, "batch")
        if not self.test < 1 - self.heldout:
            raise SettingsError(
                f"heldout = {self.heldout}, test = {self.test}: together they must be less than 1, so that training "
                "rows remain."
            )

    def effective_max_length(self, model_max_length: int) -> int:
        """Return the tokens of a sequence, special tokens included. Raises `SettingsError` if the model takes fewer."""
        if self.max_length is None:
            return min(model_max_length, DEFAULT_MAX_LENGTH)
        if self.max_length > model_max_length:
            raise SettingsError(f"max_length = {self.max_length}: the model takes at most {model_max_length} tokens.")
        return self.max_length

    @property
    def effective_truncate(self) -> Truncate:
        """The policy for texts that are too long."""
        return self.task.truncate if self.truncate is None else self.truncate


def initial_settings(task: str, overrides: Mapping[str, Any]) -> FinetuneSettings:
    """Return the settings before the data is read: those of a task with `overrides`, without `optim` and `train`."""
    rest = {key: value for key, value in overrides.items() if key not in ("optim", "train")}
    return decode(FinetuneSettings, merge_tables({"task": {"is": task}}, rest))


def complete_settings(
    settings: FinetuneSettings,
    overrides: Mapping[str, Any],
    lengths: npt.ArrayLike,
    model: ModelSettings,
    embedding_rms: float,
) -> FinetuneSettings:
    """Return the settings with everything that they leave open chosen by the rules; `overrides` wins.

    `lengths` (E,): tokens of each training example. `embedding_rms`: root mean square of the model's embeddings.
    """
    sizes = np.asarray(lengths, np.int64)
    batch = default_batch_size(len(sizes)) if settings.batch is None else settings.batch
    epochs = default_epochs(len(sizes), batch) if settings.epochs is None else settings.epochs
    small_part = settings.adapt is not None and settings.adapt.parameter_efficient
    post_norm = name_of(model.block) == "post"
    lr = default_lr(model.width, batch, small_part, post_norm)
    embedding_lr_scale = settings.embedding_lr_scale
    if embedding_lr_scale is None:
        classifies = isinstance(settings.task, ClassificationTask)
        embedding_lr_scale = default_embedding_lr_scale(embedding_rms, post_norm) if classifies else 1.0
    own_train = overrides.get("train", {})
    evals = own_train.get("evals", min(max(round(epochs), MIN_EVALS), MAX_EVALS))
    train = {
        **settings_for_epochs(sizes, batch, epochs),
        "lr_schedule": "linear(warmup=10%)",
        # An evaluation costs a third of a training step per token, and sees at most half the tokens of an epoch.
        **evaluation_settings(
            evals, max(int(sizes.sum()) // 2, MIN_EVAL_TOKENS), max(round(PATIENCE_FRACTION * evals), MIN_PATIENCE)
        ),
        "keep_pre_decay_checkpoint": False,
        **own_train,
    }
    table = {
        **encode(settings),
        "batch": batch,
        "epochs": epochs,
        "embedding_lr_scale": embedding_lr_scale,
        "optim": merge_tables({"optim": {"is": "adamw", "lr": lr}}, {"optim": overrides.get("optim", {})})["optim"],
        "train": train,
    }
    return decode(FinetuneSettings, table)


def default_batch_size(examples: int) -> int:
    """Return the examples of a step."""
    return REFERENCE_BATCH if examples < 5_000 else 2 * REFERENCE_BATCH if examples < 50_000 else 4 * REFERENCE_BATCH


def default_epochs(examples: int, batch: int) -> float:
    """Return the epochs for a number of examples."""
    return min(max(MIN_STEPS * batch / max(examples, 1), 3.0 if examples < 30_000 else 2.0), 20.0)


def default_lr(width: int, batch: int, parameter_efficient: bool, post_norm: bool) -> float:
    """Return the peak learning rate: that of the reference width times the ratio of the widths.

    For models without norms on the residual path, which tolerate more, the ratio has the power 1.4 (measured at a width
    of 128).
    """
    ratio = (REFERENCE_WIDTH / width) ** (1 if post_norm else 1.4)
    factor = ADAPTER_LR_FACTOR if parameter_efficient else 1.0
    return round(REFERENCE_LR * ratio * math.sqrt(batch / REFERENCE_BATCH) * factor, 7)


def default_embedding_lr_scale(embedding_rms: float, post_norm: bool) -> float:
    """Return the learning rate of embeddings with this root mean square, relative to that of the model.

    A norm reads only the direction of its input: the larger the embeddings, the less a step rotates them. Measured on
    classifiers with norms before their blocks (bench/LOG.md); for others it is 1.
    """
    return 1.0 if post_norm else round(min(max(embedding_rms / INIT_RMS, 1.0), MAX_EMBEDDING_LR_SCALE), 2)
