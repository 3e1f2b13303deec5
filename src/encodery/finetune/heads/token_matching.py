"""How well the words of two texts match: a few numbers beside the pooled states. arXiv:1904.07094, 1904.09675

Pooled states of a sequence that holds two texts say what both are about, not whether they agree: an encoder of minutes
of text has not learnt to compare across a sequence, and a few hundred rows do not teach it. As in CEDR, the head also
gets features of the similarities between the states of the two texts; as in BERTScore, every token is matched with the
most similar one of the other text, and tokens count by weights, here learnt ones. States are whitened by those of the
training rows first: their common part makes all of them similar.
Shapes: n tokens of a sequence, T tokens of a batch, S sequences, H width, K features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encodery.finetune.preprocess import InputSequence
from encodery.model.shape import Batch

TEXT_INDEX = "side"
"""The mark of a token: 1 in the first text, 2 in the second, 0 where it is special."""
NUM_FEATURES = 15
NUM_LOWEST = 3  # Tokens that match worst: by them differ texts that agree but for a number or a name.
MATCH_COSINE, MATCH_SLOPE = (
    0.9,
    20.0,
)  # The cosine from which a token counts as found in the other text, and how sharply it does.
VARIANCE_FLOOR = 0.01  # Of the mean variance, added to the variance of each direction.
MIN_FEATURE_STD = 1e-3  # A feature that hardly differs between training rows is not blown up.


def text_indices(sequence: InputSequence) -> np.ndarray:
    """(n,) the mark of each token of a sequence of two texts, its second one being `piece`'s last."""
    found = np.zeros(len(sequence.ids), np.uint8)
    found[sequence.text_start : -1] = 2
    found[1 : sequence.second_start - sequence.num_separators] = 1
    return found


class TokenMatching(nn.Module):
    """Hidden states (T, H) of sequences that hold two texts → (S, K), standardised by the training rows.

    For either text: the mean cosine of its tokens with what matches them best in the other, the least, the mean of the
    three least, the share of tokens that have their like there, the share of those that stand there themselves; the
    mean and the last share by learnt weights of tokens; and the cosine of the two mean states. All are 0 of a text
    without tokens. Gradients go through cosines, not through the choice of what matches.
    """

    mean: Tensor
    white: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_weight = nn.Linear(width, 1)
        nn.init.zeros_(self.token_weight.weight)
        nn.init.zeros_(self.token_weight.bias)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("white", torch.eye(width))
        self.register_buffer("middle", torch.zeros(NUM_FEATURES))
        self.register_buffer("spread", torch.ones(NUM_FEATURES))

    @torch.no_grad()
    def fit(self, found: Iterable[tuple[Tensor, Batch]]) -> None:
        """Learn from hidden states (T, H) of batches how to whiten them, and the mean and spread of the features."""
        seen = [(hidden.float(), batch) for hidden, batch in found]
        states = torch.cat([hidden[batch.extra[TEXT_INDEX] > 0] for hidden, batch in seen]).double()
        if len(states) < 2:
            return
        apart = states - states.mean(0)
        values, directions = torch.linalg.eigh(apart.T @ apart / (len(states) - 1))
        values = values.clamp(min=0)
        scales = (values + VARIANCE_FLOOR * values.mean() + torch.finfo(torch.float32).tiny).rsqrt()
        self.mean.copy_(states.mean(0))
        self.white.copy_((directions * scales) @ directions.T)
        features = torch.cat([self._features(hidden, batch) for hidden, batch in seen])
        self.middle.copy_(features.mean(0))
        self.spread.copy_(features.std(0, correction=0).clamp(min=MIN_FEATURE_STD))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            found: Tensor = (self._features(hidden.float(), batch) - self.middle) / self.spread
        return found

    def _features(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(S, K) before they are standardised."""
        side, sequences = batch.extra[TEXT_INDEX].long(), len(batch)
        states = (hidden - self.mean) @ self.white
        unit = F.normalize(states, dim=1)
        best, exact = best_matches(unit.detach(), side, batch)
        cosines = torch.where(best >= 0, (unit * unit[best]).sum(1), 0.0)
        group = batch.layout.sequence_ids * 3 + side

        def total(values: Tensor) -> Tensor:
            """(T, …) → (S, 2, …) summed over the tokens of either text."""
            found = values.new_zeros(3 * sequences, *values.shape[1:]).index_add(0, group, values)
            return found.view(sequences, 3, *values.shape[1:])[:, 1:]

        many = total(torch.ones_like(cosines)).clamp(min=1)
        least, few = _lowest(cosines, group, 1), _lowest(cosines, group, NUM_LOWEST)
        weights = F.softplus(self.token_weight(states)[:, 0])
        weight = total(weights).clamp(min=1e-6)
        same = torch.sigmoid((cosines - MATCH_COSINE) * MATCH_SLOPE)
        about = total(states) / many[..., None]
        return torch.cat(
            [
                total(cosines) / many,
                total(least * cosines),
                total(few * cosines) / many.clamp(max=NUM_LOWEST),
                total(same) / many,
                total(exact) / many,
                total(weights * cosines) / weight,
                total(weights * exact) / weight,
                F.cosine_similarity(about[:, 0], about[:, 1], dim=1)[:, None],
            ],
            1,
        )


def best_matches(directions: Tensor, text_index: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """For each token the one (T,) of the sequence's other text whose direction (T, H) is most like its own, -1 where
    there is none; and 1.0 (T,) where the very token stands there, else 0. Nothing is computed between sequences."""
    best, exact = torch.full_like(text_index, -1), torch.zeros_like(directions[:, 0])
    for one, other in _blocks(text_index, batch):
        cosines = directions[one] @ directions[other].T
        best[one] = cosines.argmax(1) + other.start
        best[other] = cosines.argmax(0) + one.start
        equal = batch.ids[one, None] == batch.ids[other]
        exact[one], exact[other] = equal.any(1).to(exact), equal.any(0).to(exact)
    return best, exact


def _lowest(values: Tensor, group: Tensor, count: int) -> Tensor:
    """(T,) 1 for the lowest so many values (T,) of each group (T,), else 0."""
    order = values.detach().argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    many = torch.bincount(group)
    rank = torch.arange(len(order), device=order.device) - (many.cumsum(0) - many)[group[order]]
    return torch.zeros_like(values).index_fill(0, order[rank < count], 1.0)


def _blocks(side: Tensor, batch: Batch) -> Iterator[tuple[slice, slice]]:
    """Where the first and the second text lie, of each sequence in which neither is empty."""
    edges = []
    sequence, place = batch.layout.sequence_ids, torch.arange(len(side), device=side.device)
    for number in (1, 2):
        here = side == number
        many = torch.bincount(sequence[here], minlength=len(batch))
        first = torch.zeros_like(many).scatter_reduce(0, sequence[here], place[here], "amin", include_self=False)
        edges.append(torch.stack([first, first + many], 1).tolist())
    for (start, stop), (begin, end) in zip(*edges, strict=True):
        if stop > start and end > begin:
            yield slice(start, stop), slice(begin, end)
