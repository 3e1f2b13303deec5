"""Features of how well the tokens of two texts match, beside the pooled states. arXiv:1904.07094, 1904.09675

The pooled states of a sequence with two texts describe what both are about, not whether they agree: an encoder
pre-trained for minutes has not learned to compare within a sequence, and a few hundred rows do not teach it. As in
CEDR, the head also reads features of the similarities between the states of the two texts. As in BERTScore, every token
is matched with the most similar token of the other text, and tokens are weighted, here by learned weights. States are
whitened with those of the training rows first, because their common component makes all of them similar.
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

TEXT_INDEX = "text_index"
"""Token mark: 1 in the first text, 2 in the second, 0 for special tokens."""
NUM_FEATURES = 15
NUM_LOWEST = 3
"""Number of worst matching tokens that are averaged: texts that differ only in a number or a name differ in these."""
MATCH_COSINE, MATCH_SLOPE = 0.9, 20.0
"""Cosine from which a token counts as present in the other text, and the slope of the sigmoid around it."""
VARIANCE_FLOOR = 0.01
"""Fraction of the mean variance that is added to the variance of each direction."""
MIN_FEATURE_STD = 1e-3
"""Features that hardly vary between training rows are divided by this."""


def text_indices(sequence: InputSequence) -> np.ndarray:
    """Return (n,) the `TEXT_INDEX` of each token of a sequence of two texts."""
    indices = np.zeros(len(sequence.ids), np.uint8)
    indices[sequence.text_start : -1] = 2
    indices[1 : sequence.second_start - sequence.num_separators] = 1
    return indices


class TokenMatching(nn.Module):
    """Hidden states (T, H) of sequences with two texts → features (S, K), standardised on the training rows.

    For each of the two texts, where every token is matched with the most similar token of the other text: the mean
    cosine, the lowest, the mean of the three lowest, the fraction of tokens with a cosine of about 0.9 or more, the
    fraction of tokens that occur in the other text, and the mean cosine and the second fraction by learned token
    weights. The last feature is the cosine of the mean states of the two texts. All features of a text without tokens
    are 0. Gradients flow through the cosines, not through the choice of matches.
    """

    state_mean: Tensor
    whitening: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_weight = nn.Linear(width, 1)
        nn.init.zeros_(self.token_weight.weight)
        nn.init.zeros_(self.token_weight.bias)
        self.register_buffer("state_mean", torch.zeros(width))
        self.register_buffer("whitening", torch.eye(width))
        self.register_buffer("feature_mean", torch.zeros(NUM_FEATURES))
        self.register_buffer("feature_std", torch.ones(NUM_FEATURES))

    @torch.no_grad()
    def fit(self, encoded: Iterable[tuple[Tensor, Batch]]) -> None:
        """Fit the whitening of hidden states (T, H) of batches, and the mean and standard deviation of the features."""
        batches = [(hidden.float(), batch) for hidden, batch in encoded]
        states = torch.cat([hidden[batch.extra[TEXT_INDEX] > 0] for hidden, batch in batches]).double()
        if len(states) < 2:
            return
        centred = states - states.mean(0)
        values, directions = torch.linalg.eigh(centred.T @ centred / (len(states) - 1))
        values = values.clamp(min=0)
        scales = (values + VARIANCE_FLOOR * values.mean() + torch.finfo(torch.float32).tiny).rsqrt()
        self.state_mean.copy_(states.mean(0))
        self.whitening.copy_((directions * scales) @ directions.T)
        features = torch.cat([self._features(hidden, batch) for hidden, batch in batches])
        self.feature_mean.copy_(features.mean(0))
        self.feature_std.copy_(features.std(0, correction=0).clamp(min=MIN_FEATURE_STD))

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            features: Tensor = (self._features(hidden.float(), batch) - self.feature_mean) / self.feature_std
        return features

    def _features(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return (S, K) before standardisation."""
        text_index, sequences = batch.extra[TEXT_INDEX].long(), len(batch)
        states = (hidden - self.state_mean) @ self.whitening
        directions = F.normalize(states, dim=1)
        best, exact = best_matches(directions.detach(), text_index, batch)
        cosines = torch.where(best >= 0, (directions * directions[best]).sum(1), 0.0)
        group = batch.layout.sequence_ids * 3 + text_index

        def total(values: Tensor) -> Tensor:
            """(T, …) → (S, 2, …) summed over the tokens of each text."""
            sums = values.new_zeros(3 * sequences, *values.shape[1:]).index_add(0, group, values)
            return sums.view(sequences, 3, *values.shape[1:])[:, 1:]

        tokens = total(torch.ones_like(cosines)).clamp(min=1)
        lowest, few_lowest = _lowest(cosines, group, 1), _lowest(cosines, group, NUM_LOWEST)
        weights = F.softplus(self.token_weight(states)[:, 0])
        weight = total(weights).clamp(min=1e-6)
        similar = torch.sigmoid((cosines - MATCH_COSINE) * MATCH_SLOPE)
        means = total(states) / tokens[..., None]
        return torch.cat(
            [
                total(cosines) / tokens,
                total(lowest * cosines),
                total(few_lowest * cosines) / tokens.clamp(max=NUM_LOWEST),
                total(similar) / tokens,
                total(exact) / tokens,
                total(weights * cosines) / weight,
                total(weights * exact) / weight,
                F.cosine_similarity(means[:, 0], means[:, 1], dim=1)[:, None],
            ],
            1,
        )


def best_matches(directions: Tensor, text_index: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Match every token with the token of the other text whose direction is most similar.

    `directions` (T, H) are unit vectors. Returns the index (T,) of the match, -1 without one, and (T,) 1.0 where the
    same token occurs in the other text, else 0. Nothing is computed across sequences.
    """
    best, exact = torch.full_like(text_index, -1), torch.zeros_like(directions[:, 0])
    for first, second in _text_slices(text_index, batch):
        cosines = directions[first] @ directions[second].T
        best[first] = cosines.argmax(1) + second.start
        best[second] = cosines.argmax(0) + first.start
        equal = batch.ids[first, None] == batch.ids[second]
        exact[first], exact[second] = equal.any(1).to(exact), equal.any(0).to(exact)
    return best, exact


def _lowest(values: Tensor, group: Tensor, count: int) -> Tensor:
    """Return (T,) 1 for the `count` lowest values (T,) of each group (T,), else 0."""
    order = values.detach().argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    sizes = torch.bincount(group)
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[group[order]]
    return torch.zeros_like(values).index_fill(0, order[rank < count], 1.0)


def _text_slices(text_index: Tensor, batch: Batch) -> Iterator[tuple[slice, slice]]:
    """Yield the slices of the first and the second text of each sequence in which neither is empty."""
    edges = []
    sequence = batch.layout.sequence_ids
    position = torch.arange(len(text_index), device=text_index.device)
    for number in (1, 2):
        inside = text_index == number
        sizes = torch.bincount(sequence[inside], minlength=len(batch))
        first = torch.zeros_like(sizes).scatter_reduce(
            0, sequence[inside], position[inside], "amin", include_self=False
        )
        edges.append(torch.stack([first, first + sizes], 1).tolist())
    for (first_start, first_stop), (second_start, second_stop) in zip(*edges, strict=True):
        if first_stop > first_start and second_stop > second_start:
            yield slice(first_start, first_stop), slice(second_start, second_stop)
