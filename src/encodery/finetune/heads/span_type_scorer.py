"""Scores every span of up to K words against every type that a prompt names. arXiv:2311.08526 (GLiNER)

A span is represented by the states of its first and last word, a type by the state of its [MASK] in the prompt; their
dot product is the logit. Shapes: T tokens, S sequences, K most words of a span, C types of a prompt, H width, N spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from encodery.finetune.heads.word_spans import LabelledSpan
from encodery.finetune.task_module import TaskModule
from encodery.model.shape import Batch, Output
from encodery.objectives import Count, LossTerm

ABSENT_LOGIT = -1e4
"""Logit of a span or a type that does not exist."""
MAX_SPAN_REACH = 32_000
"""Most tokens between the first and the last word of a span, since 16 bits store it."""
INITIAL_BIAS = -3.0
"""Initial bias of the logits: most spans are of no type."""


class SpanTypeScorer(TaskModule):
    """(T, K · C) logits of the spans that start at each token: for each length, of every type of the longest prompt.

    `positive_weight`: weight in the loss of spans that have a type, which are few.
    """

    granularity = "token"

    def __init__(self, width: int, max_span_words: int, dropout: float, positive_weight: float) -> None:
        super().__init__()
        self.max_span_words, self.positive_weight = max_span_words, positive_weight
        self.dropout = nn.Dropout(dropout)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)
        self.type_projection = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.tensor(INITIAL_BIAS))
        for layer in (self.first, self.last, self.type_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        hidden = self.dropout(output.hidden)
        types, reach = _types_and_reach(batch, self.max_span_words)
        type_vectors, exists = self._type_vectors(hidden, types, batch)
        shape = (batch.tokens, self.max_span_words, type_vectors.shape[1])
        logits = hidden.new_full(shape, ABSENT_LOGIT, dtype=torch.float32)
        token, length = (reach >= 0).nonzero(as_tuple=True)
        spans = torch.relu(self.first(hidden)[token] + self.last(hidden)[token + reach[token, length].long()])
        sequence = batch.layout.sequence_ids[token]
        # One sequence at a time: the products of all spans with all types at once would not fit in memory.
        parts = torch.split(spans, torch.bincount(sequence, minlength=len(batch)).tolist())
        products = torch.cat([part @ vectors.T for part, vectors in zip(parts, type_vectors, strict=True)]).float()
        scores = products / hidden.shape[1] ** 0.5 + self.bias
        filled: Tensor = logits.index_put((token, length), scores.masked_fill(~exists[sequence], ABSENT_LOGIT))
        return filled.flatten(1)

    def _type_vectors(self, hidden: Tensor, types: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the vector of each type of each sequence (S, C, H), and which of them exist (S, C)."""
        token = (types >= 0).nonzero()[:, 0]
        sequence = batch.layout.sequence_ids[token]
        counts = torch.bincount(sequence, minlength=len(batch))
        index = torch.arange(len(token), device=token.device) - (counts.cumsum(0) - counts)[sequence]
        max_types = int(counts.max())
        vectors = self.type_projection(hidden[token])
        padded = vectors.new_zeros(len(batch), max_types, vectors.shape[-1]).index_put((sequence, index), vectors)
        return padded, torch.arange(max_types, device=token.device) < counts[:, None]

    def counts(self, batch: Batch) -> dict[str, Count]:
        types = batch.extra["types"][batch.layout.sequence_ids]
        return {"spans": ((batch.extra["reach"] >= 0).sum(1) * types).sum()}

    def loss(self, predicted: Tensor, batch: Batch) -> dict[str, LossTerm]:
        reach, target = batch.extra["reach"], batch.extra["target"]
        logits = predicted.view(*reach.shape, -1)
        token, length = (reach >= 0).nonzero(as_tuple=True)
        of_spans = logits[token, length]  # (N, C)
        expected = torch.zeros_like(of_spans)
        right = target[token, length].long()
        has_type = right >= 0
        expected[has_type.nonzero()[:, 0], right[has_type]] = 1.0
        types = batch.extra["types"][batch.layout.sequence_ids[token]]
        exists = torch.arange(of_spans.shape[1], device=token.device) < types[:, None]
        each = nn.functional.binary_cross_entropy_with_logits(
            of_spans, expected, reduction="none", pos_weight=of_spans.new_tensor(self.positive_weight)
        )
        return {"spans": LossTerm((each * exists).sum(), self.counts(batch)["spans"])}


def _types_and_reach(batch: Batch, max_span_words: int) -> tuple[Tensor, Tensor]:
    """Return the token marks `type` and `reach` of a batch.

    In a batch without marks the first token of each sequence is its type, and all tokens are words.
    """
    if "reach" in batch.extra:
        return batch.extra["type"], batch.extra["reach"]
    position, sequence = batch.layout.positions, batch.layout.sequence_ids
    remaining = batch.cu_seqlens.diff().long()[sequence] - position
    lengths = torch.arange(max_span_words, device=position.device).expand(batch.tokens, max_span_words)
    return (position == 0).long() - 1, torch.where(lengths < remaining[:, None], lengths, -1)


def word_marks(
    num_tokens: int, words: Sequence[int], first: np.ndarray, stop: int, offset: int, max_span_words: int
) -> dict[str, np.ndarray]:
    """Return the token marks of the words of a window.

    `word` (T,): the word that starts at each token, -1 without one. `reach` (T, K): how many tokens later the last word
    of a span of each length starts, -1 if there is no such span. `first` (U,): first token of each word of the text;
    `stop`: end of the window; `offset`: from tokens of the text to tokens of the sequence.
    """
    word_of = np.full(num_tokens, -1, np.int32)
    reach = np.full((num_tokens, max_span_words), -1, np.int16)
    for word in words:
        token = int(first[word])
        if word_of[token + offset] >= 0:
            continue  # Two words in one token: it stands for the first.
        word_of[token + offset] = word
        for length, last in enumerate(first[word : word + max_span_words].tolist()):
            if last < 0 or last >= stop or last - token > MAX_SPAN_REACH:
                break
            reach[token + offset, length] = last - token
    return {"word": word_of, "reach": reach}


def target_marks(
    reach: np.ndarray,
    words: Sequence[int],
    first: np.ndarray,
    spans: Sequence[LabelledSpan],
    index_of: Mapping[str, int],
    offset: int,
) -> np.ndarray:
    """Return (T, K) the index in the prompt of the type of each span, -1 without one."""
    target, inside = np.full(reach.shape, -1, np.int8), set(words)
    for start, stop, label in spans:
        token, length = int(first[start]) + offset, stop - start - 1
        if start in inside and label in index_of and length < reach.shape[1] and reach[token, length] >= 0:
            target[token, length] = index_of[label]
    return target
