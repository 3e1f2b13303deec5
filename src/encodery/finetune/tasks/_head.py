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
from encodery.finetune.examples import Collector, Examples
from encodery.finetune.reader import Piece, Reader
from encodery.finetune.tasks import Known, Rows, States, Task, TaskModule
from encodery.finetune.tasks._matching import FEATURES, SIDE, Matching, sides
from encodery.model.shape import Batch, Output

Kind = Literal["mean", "cls", "max"]
STD = 0.02
MATCHING = "matching"


@dataclass(frozen=True, kw_only=True)
class Headed(Task):
    """A task with such a head: `pooling`, `hidden` and `dropout` are the head's, which learns `rate` times as fast as
    the model; `matching`: of two texts it also gets how well their words match (`_matching.py`)."""

    pooling: Kind = "mean"
    hidden: bool = False
    dropout: float = 0.1
    rate: float = 10.0
    matching: bool = True

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_rate(self.rate)

    def matched(self, paired: bool) -> dict[str, Any]:
        """What is known of rows by which head and examples are made: whether texts are matched."""
        return {MATCHING: True} if self.matching and paired else {}


class Quick(nn.Linear):
    """A linear map that learns `rate` times as fast as the optimiser's rate says: what comes out is multiplied by it,
    and the first weights are so many times smaller. Under Adam and its like, whose steps do not depend on the size of
    gradients, that is the same as a rate of its own: a map that begins at random has farther to go than the model."""

    def __init__(self, width: int, outputs: int, rate: float) -> None:
        super().__init__(width, outputs)
        self.rate = rate
        nn.init.normal_(self.weight, std=STD / rate)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.rate, self.bias * self.rate)


class Head(nn.Module):
    """Hidden states (T, H) → (S, C): the mean, first or largest of a sequence's states; with `hidden` a dense layer and
    tanh, as BERT's pooler, or, `normed`, gelu and a norm, as ModernBERT's head; beside it, where rows have two texts,
    how they match (S, K); then dropout and a linear map."""

    def __init__(self, width: int, outputs: int, settings: Headed, known: Known, normed: bool = False) -> None:
        super().__init__()
        self.pooling = settings.pooling
        self.dense = nn.Linear(width, width) if settings.hidden else None
        self.norm = nn.LayerNorm(width) if normed else None
        self.drop = nn.Dropout(settings.dropout)
        self.matching = Matching(width) if known.get(MATCHING) else None
        self.out = Quick(width if self.matching is None else width + FEATURES, outputs, settings.rate)
        if self.dense is not None:
            nn.init.normal_(self.dense.weight, std=STD)
            nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        y: Tensor = self.out(self.drop(self.features(hidden, batch)))
        return y.float()

    def features(self, hidden: Tensor, batch: Batch) -> Tensor:
        """What the linear map reads: (S, H), or (S, H + K) where texts are matched."""
        pooled = pool(hidden, batch, self.pooling)
        if self.dense is not None:
            dense = self.dense(self.drop(pooled))
            pooled = torch.tanh(dense) if self.norm is None else self.norm(F.gelu(dense))
        return pooled if self.matching is None else torch.cat([pooled, self.matching(hidden, batch)], 1)


class HeadedModule(TaskModule):
    """The module of a task that is a head and a loss."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def fit(self, states: States) -> None:
        """See `TaskModule`: what texts are matched by."""
        if self.head.matching is not None:
            self.head.matching.fit((output.hidden, batch) for output, batch in states())

    def forward(self, output: Output, batch: Batch) -> Tensor:
        y: Tensor = self.head(output.hidden, batch)
        return y


def pool(hidden: Tensor, batch: Batch, kind: Kind) -> Tensor:
    """Hidden states (T, H) → one vector of each sequence (S, H), in fp32."""
    hidden = hidden.float()
    if kind == "cls":
        return hidden[batch.cu_seqlens[:-1].long()]
    place = batch.layout.sequence
    if kind == "max":
        low = hidden.new_full((len(batch), hidden.shape[1]), -torch.inf)
        return low.scatter_reduce(0, place[:, None].expand_as(hidden), hidden, "amax")
    summed = hidden.new_zeros(len(batch), hidden.shape[1]).index_add(0, place, hidden)
    return summed / batch.cu_seqlens.diff().to(hidden.dtype)[:, None]


def check_rate(rate: float) -> None:
    """Raises `SettingsError` for what is no factor."""
    if not rate > 0:
        raise SettingsError(f"rate = {rate}: must be more than 0.")


def check_dropout(dropout: float) -> None:
    """Raises `SettingsError` for what is no share."""
    if not 0 <= dropout < 1:
        raise SettingsError(f"dropout = {dropout}: must lie in 0 <= dropout < 1.")


def read(rows: Rows, reader: Reader) -> tuple[list[list[Piece]], list[int]]:
    """The sequences of each row's text, or of its two texts, and the tokens dropped of each."""
    if "text_b" in rows:
        return reader.pairs(rows["text"], rows["text_b"])
    return reader.texts(rows["text"])


def marks(pieces: Sequence[Piece], known: Known) -> dict[str, np.ndarray]:
    """What the head needs to know of each token of an example's sequences."""
    return {SIDE: np.concatenate([sides(piece) for piece in pieces])} if known.get(MATCHING) else {}


def gathered(
    found: Sequence[Sequence[Piece]],
    dropped: Sequence[int],
    reader: Reader,
    known: Known,
    targets: Mapping[str, np.ndarray],
) -> Examples:
    """An example for each sequence of the rows, with its row's targets (R, …)."""
    collector = Collector(reader.segmented)
    for row, pieces in enumerate(found):
        told = {name: values[row] for name, values in targets.items()}
        for piece in pieces:
            collector.add(row, [piece], told, marks([piece], known))
    return collector.done(dropped)


def by_row(outputs: Sequence[np.ndarray], examples: Examples) -> np.ndarray:
    """(R, C) the mean of what was given for the windows of each row, weighted by their lengths."""
    stacked = np.stack(outputs).astype(np.float64)
    weights = examples.lengths.astype(np.float64)
    weights /= np.bincount(examples.row, weights=weights, minlength=examples.rows)[examples.row]
    found = np.zeros((examples.rows, stacked.shape[1]))
    np.add.at(found, examples.row, stacked * weights[:, None])
    return found


def within(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """Log-softmax of scores (N,) within each of so many groups (N,), whatever their sizes."""
    highest = scores.new_full((groups,), -torch.inf).scatter_reduce(0, group, scores.detach(), "amax")
    shifted = scores - highest[group]
    total = scores.new_zeros(groups).index_add(0, group, shifted.exp())
    return shifted - total.log()[group]
