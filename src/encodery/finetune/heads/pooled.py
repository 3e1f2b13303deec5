"""A head that reads one vector per sequence: pooling, dropout, one linear map.

Tasks with one prediction per sequence use it. Shapes: T tokens, S sequences, H width, K features, C outputs.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.settings import check_interval
from encodery.finetune.heads.layers import INIT_STD, HeadPooling, ScaledLRLinear, pool
from encodery.finetune.heads.token_matching import NUM_FEATURES, TokenMatching
from encodery.finetune.task_module import EncodedBatches, TaskModule
from encodery.finetune.task_types import TaskMetadata
from encodery.finetune.tasks import Task
from encodery.model.shape import Batch, Output

HeadActivation = Literal["tanh", "relu", "gelu"]
_ACTIVATIONS: dict[HeadActivation, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True, kw_only=True)
class HeadedTask(Task, abc.ABC):
    """A task with a `PooledHead`.

    `pooling` of the hidden states; `head_dense`: a dense layer after it; `head_activation` of that layer ("tanh" as in
    BERT, "relu" as in DistilBERT, "gelu" as in ELECTRA); `dropout` in the head; `head_lr_scale`: the learning rate of
    the head relative to the model's; `token_matching`: for two texts, the head also reads how well their tokens match
    (`heads/token_matching.py`).
    """

    pooling: HeadPooling = "mean"
    head_dense: bool = False
    head_activation: HeadActivation = "tanh"
    dropout: float = 0.1
    head_lr_scale: float = 10.0
    token_matching: bool = True

    def __post_init__(self) -> None:
        check_interval(self, "0 <= x < 1", "dropout")
        check_interval(self, "0 < x", "head_lr_scale")


class PooledHead(nn.Module):
    """Hidden states (T, H) → outputs (S, C).

    The states are pooled; with `head_dense` a dense layer and its activation follow, as in BERT's pooler, or with
    `norm` GELU and a layer norm, as in ModernBERT's head. For rows of two texts the features (S, K) of token matching
    are appended. Dropout and a linear map come last.
    """

    def __init__(self, width: int, outputs: int, task: HeadedTask, metadata: TaskMetadata, norm: bool = False) -> None:
        super().__init__()
        self.pooling = task.pooling
        self.dense = nn.Linear(width, width) if task.head_dense else None
        self.norm = nn.LayerNorm(width) if norm else None
        self.activate = _ACTIVATIONS["gelu" if norm else task.head_activation]
        self.dropout = nn.Dropout(task.dropout)
        self.matching = TokenMatching(width) if metadata.token_matching else None
        self.out = ScaledLRLinear(width if self.matching is None else width + NUM_FEATURES, outputs, task.head_lr_scale)
        if self.dense is not None:
            nn.init.normal_(self.dense.weight, std=INIT_STD)
            nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        outputs: Tensor = self.out(self.dropout(self.features(hidden, batch)))
        return outputs.float()

    def features(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the input of the linear map: (S, H), or (S, H + K) with token matching."""
        pooled = pool(hidden, batch, self.pooling)
        if self.dense is not None:
            pooled = self.activate(self.dense(self.dropout(pooled)))
            pooled = pooled if self.norm is None else self.norm(pooled)
        return pooled if self.matching is None else torch.cat([pooled, self.matching(hidden, batch)], 1)


class HeadedModule(TaskModule, abc.ABC):
    """The module of a task with a `PooledHead`; the loss is left to the task."""

    def __init__(self, head: PooledHead) -> None:
        super().__init__()
        self.head = head

    def fit(self, encoded: EncodedBatches) -> None:
        """See `TaskModule`. Fits the whitening and scaling of token matching."""
        if self.head.matching is not None:
            self.head.matching.fit((output.hidden, batch) for output, batch in encoded())

    def forward(self, output: Output, batch: Batch) -> Tensor:
        outputs: Tensor = self.head(output.hidden, batch)
        return outputs
