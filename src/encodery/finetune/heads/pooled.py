"""What tasks that say one thing of a sequence share: pooling, dropout, one linear map; how a row's windows are joined.

Shapes: T tokens, S sequences, H width, K features, C outputs, E examples, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.base.errors import SettingsError
from encodery.finetune.examples import ExampleBuilder, Examples
from encodery.finetune.heads.token_matching import NUM_FEATURES, TEXT_INDEX, TokenMatching, text_indices
from encodery.finetune.preprocess import InputSequence, Preprocessor
from encodery.finetune.tasks import EncodedBatches, Rows, Task, TaskMetadata, TaskModule
from encodery.model.shape import Batch, Output

HeadPooling = Literal["mean", "cls", "max"]
INIT_STD = 0.02
TOKEN_MATCHING = "matching"


@dataclass(frozen=True, kw_only=True)
class HeadedTask(Task):
    """A task with such a head: `pooling`, `hidden` and `dropout` are the head's, which learns `rate` times as fast as
    the model; `matching`: of two texts it also gets how well their words match (`_matching.py`)."""

    pooling: HeadPooling = "mean"
    head_dense: bool = False
    dropout: float = 0.1
    head_lr_scale: float = 10.0
    token_matching: bool = True

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_lr_scale(self.head_lr_scale)

    def matching_metadata(self, paired: bool) -> dict[str, Any]:
        """What is known of rows by which head and examples are made: whether texts are matched."""
        return {TOKEN_MATCHING: True} if self.token_matching and paired else {}


class ScaledLRLinear(nn.Linear):
    """A linear map that learns `rate` times as fast as the optimiser's rate says: what comes out is multiplied by it,
    and the first weights are so many times smaller. Under Adam and its like, whose steps do not depend on the size of
    gradients, that is the same as a rate of its own: a map that begins at random has farther to go than the model."""

    def __init__(self, width: int, outputs: int, lr_scale: float) -> None:
        super().__init__(width, outputs)
        self.lr_scale = lr_scale
        nn.init.normal_(self.weight, std=INIT_STD / lr_scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.lr_scale, self.bias * self.lr_scale)


class PooledHead(nn.Module):
    """Hidden states (T, H) → (S, C): the mean, first or largest of a sequence's states; with `hidden` a dense layer and
    tanh, as BERT's pooler, or, `normed`, gelu and a norm, as ModernBERT's head; beside it, where rows have two texts,
    how they match (S, K); then dropout and a linear map."""

    def __init__(self, width: int, outputs: int, task: HeadedTask, metadata: TaskMetadata, norm: bool = False) -> None:
        super().__init__()
        self.pooling = task.pooling
        self.dense = nn.Linear(width, width) if task.head_dense else None
        self.norm = nn.LayerNorm(width) if norm else None
        self.dropout = nn.Dropout(task.dropout)
        self.matching = TokenMatching(width) if metadata.get(TOKEN_MATCHING) else None
        self.out = ScaledLRLinear(width if self.matching is None else width + NUM_FEATURES, outputs, task.head_lr_scale)
        if self.dense is not None:
            nn.init.normal_(self.dense.weight, std=INIT_STD)
            nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        y: Tensor = self.out(self.dropout(self.features(hidden, batch)))
        return y.float()

    def features(self, hidden: Tensor, batch: Batch) -> Tensor:
        """What the linear map reads: (S, H), or (S, H + K) where texts are matched."""
        pooled = pool(hidden, batch, self.pooling)
        if self.dense is not None:
            dense = self.dense(self.dropout(pooled))
            pooled = torch.tanh(dense) if self.norm is None else self.norm(F.gelu(dense))
        return pooled if self.matching is None else torch.cat([pooled, self.matching(hidden, batch)], 1)


class HeadedModule(TaskModule):
    """The module of a task that is a head and a loss."""

    def __init__(self, head: PooledHead) -> None:
        super().__init__()
        self.head = head

    def fit(self, encoded: EncodedBatches) -> None:
        """See `TaskModule`: what texts are matched by."""
        if self.head.matching is not None:
            self.head.matching.fit((output.hidden, batch) for output, batch in encoded())

    def forward(self, output: Output, batch: Batch) -> Tensor:
        y: Tensor = self.head(output.hidden, batch)
        return y


def pool(hidden: Tensor, batch: Batch, kind: HeadPooling) -> Tensor:
    """Hidden states (T, H) → one vector of each sequence (S, H), in fp32."""
    hidden = hidden.float()
    if kind == "cls":
        return hidden[batch.cu_seqlens[:-1].long()]
    place = batch.layout.sequence_ids
    if kind == "max":
        low = hidden.new_full((len(batch), hidden.shape[1]), -torch.inf)
        return low.scatter_reduce(0, place[:, None].expand_as(hidden), hidden, "amax")
    summed = hidden.new_zeros(len(batch), hidden.shape[1]).index_add(0, place, hidden)
    return summed / batch.cu_seqlens.diff().to(hidden.dtype)[:, None]


def check_lr_scale(lr_scale: float) -> None:
    """Raises `SettingsError` for what is no factor."""
    if not lr_scale > 0:
        raise SettingsError(f"rate = {lr_scale}: must be more than 0.")


def check_dropout(dropout: float) -> None:
    """Raises `SettingsError` for what is no share."""
    if not 0 <= dropout < 1:
        raise SettingsError(f"dropout = {dropout}: must lie in 0 <= dropout < 1.")


def encode_rows(rows: Rows, reader: Preprocessor) -> tuple[list[list[InputSequence]], list[int]]:
    """The sequences of each row's text, or of its two texts, and the tokens dropped of each."""
    if "text_b" in rows:
        return reader.encode_pairs(rows["text"], rows["text_b"])
    return reader.encode_texts(rows["text"])


def token_marks(sequences: Sequence[InputSequence], metadata: TaskMetadata) -> dict[str, np.ndarray]:
    """What the head needs to know of each token of an example's sequences."""
    return (
        {TEXT_INDEX: np.concatenate([text_indices(piece) for piece in sequences])}
        if metadata.get(TOKEN_MATCHING)
        else {}
    )


def examples_of_rows(
    sequences: Sequence[Sequence[InputSequence]],
    dropped: Sequence[int],
    reader: Preprocessor,
    metadata: TaskMetadata,
    targets: Mapping[str, np.ndarray],
) -> Examples:
    """An example for each sequence of the rows, with its row's targets (R, …)."""
    collector = ExampleBuilder(reader.uses_segments)
    for row, pieces in enumerate(sequences):
        told = {name: values[row] for name, values in targets.items()}
        for piece in pieces:
            collector.add(row, [piece], told, token_marks([piece], metadata))
    return collector.build(dropped)


def mean_over_windows(outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
    """(R, C) the mean of what was given for the windows of each row, weighted by their lengths."""
    stacked = np.stack(outputs).astype(np.float64)
    weights = examples.lengths.astype(np.float64)
    weights /= np.bincount(examples.row, weights=weights, minlength=examples.num_rows)[examples.row]
    found = np.zeros((examples.num_rows, stacked.shape[1]))
    np.add.at(found, examples.row, stacked * weights[:, None])
    return found


def grouped_log_softmax(scores: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Log-softmax of scores (N,) within each of so many groups (N,), whatever their sizes."""
    highest = scores.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, scores.detach(), "amax")
    shifted = scores - highest[group]
    total = scores.new_zeros(num_groups).index_add(0, group, shifted.exp())
    return shifted - total.log()[group]
