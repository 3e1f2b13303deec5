"""Pseudo-log-likelihoods of texts under a masked language model, and the rank of a token at a mask.

The pseudo-log-likelihood is the sum over the tokens of a text of the log probability of each token when it is masked
(arXiv:1910.14659). Words of several pieces are then too easy, since each piece reveals the others: `mask_word_rest`
also masks the following pieces of the word (within-word left to right, arXiv:2305.10588). The copies of a text, one per
token, are packed without padding. Shapes: N texts, n tokens of a text, M sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from encodery.base.errors import InputError
from encodery.base.machine import device
from encodery.encoders.packing import pack_sequences

if TYPE_CHECKING:
    from encodery.model.load import LoadedModel
    from encodery.model.network import Model
    from encodery.tokens.tokenizer import Tokenizer

BATCH_TOKENS = 8192
MAX_LOGITS = 1 << 24


class PseudoLikelihoods(NamedTuple):
    """`sums` (N,) of log probabilities, `tokens` (N,) of each text, `computed`: the tokens of all copies."""

    sums: np.ndarray
    tokens: np.ndarray
    computed: int


class _Copy(NamedTuple):
    text: int
    ids: np.ndarray
    position: int
    truth: int


@torch.inference_mode()
def pseudo_log_likelihoods(
    loaded: LoadedModel, texts: Sequence[str], mask_word_rest: bool = True, batch_tokens: int = BATCH_TOKENS
) -> PseudoLikelihoods:
    """Return the pseudo-log-likelihood of each text. Raises `InputError` for a text that is too long."""
    model, tokenizer = loaded.model.to(device()).eval(), loaded.tokenizer
    rows = tokenizer.encode_batch(list(texts))
    check_lengths(rows, model)
    sums = np.zeros(len(rows))
    computed = 0
    for copies in _batched(_copies(rows, tokenizer, mask_word_rest), batch_tokens):
        hidden = _hidden(model, tokenizer, [copy.ids for copy in copies], [copy.position for copy in copies])
        truth = torch.tensor([copy.truth for copy in copies], device=hidden.device)
        values = np.concatenate(
            [
                logits.log_softmax(-1).gather(1, truth[start : start + len(logits), None])[:, 0].double().cpu().numpy()
                for start, logits in _logits(model, hidden)
            ]
        )
        np.add.at(sums, [copy.text for copy in copies], values)
        computed += sum(len(copy.ids) + 2 for copy in copies)
    return PseudoLikelihoods(sums, np.array([len(ids) for ids in rows], np.int64), computed)


@torch.inference_mode()
def mask_ranks(
    loaded: LoadedModel,
    sequences: Sequence[np.ndarray],
    answers: Sequence[Sequence[int]],
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Return the rank (N,), from 1, of the best answer among all tokens that can occur in a text, at the mask.

    Args:
        sequences: token ids with one mask each and no special tokens.
        answers: the ids of the correct tokens of each sequence, at least one.
    """
    model, tokenizer = loaded.model.to(device()).eval(), loaded.tokenizer
    check_lengths(sequences, model)
    allowed = _allowed(tokenizer, model.settings.vocab_size).to(device())
    ranks = np.zeros(len(sequences), np.int64)
    copies = (
        _Copy(number, ids, int(np.flatnonzero(ids == tokenizer.mask_id)[0]), number)
        for number, ids in sorted(enumerate(sequences), key=lambda pair: -len(pair[1]))
    )
    for batch in _batched(copies, batch_tokens):
        hidden = _hidden(model, tokenizer, [copy.ids for copy in batch], [copy.position for copy in batch])
        for start, logits in _logits(model, hidden):
            scores = logits.masked_fill(~allowed, float("-inf"))
            for row, copy in zip(scores, batch[start : start + len(scores)], strict=True):
                best = row[list(answers[copy.text])].max()
                ranks[copy.text] = 1 + int((row > best).sum())
    return ranks


def check_lengths(rows: Sequence[np.ndarray], model: Model) -> None:
    """Raise `InputError` naming the first sequence that is too long with its special tokens."""
    max_length = model.settings.max_length
    for number, ids in enumerate(rows):
        if len(ids) + 2 > max_length:
            raise InputError(
                f"Text {number} has {len(ids)} tokens; the model accepts {max_length} with special tokens."
            )


def _copies(rows: Sequence[np.ndarray], tokenizer: Tokenizer, mask_word_rest: bool) -> Iterator[_Copy]:
    """Yield a copy of each sequence per token, with that token masked, in the order of decreasing length."""
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        ids = rows[number].astype(np.int64)
        positions = np.arange(len(ids))
        ends = positions + 1
        if mask_word_rest:
            starts = np.flatnonzero(tokenizer.word_start[ids])
            ends = np.append(starts, len(ids))[np.searchsorted(starts, positions, side="right")]
        for position in positions:
            masked = ids.copy()
            masked[position : ends[position]] = tokenizer.mask_id
            yield _Copy(number, masked, int(position), int(ids[position]))


def _batched(copies: Iterator[_Copy], batch_tokens: int) -> Iterator[list[_Copy]]:
    batch: list[_Copy] = []
    tokens = 0
    for copy in copies:
        if batch and tokens + len(copy.ids) + 2 > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(copy)
        tokens += len(copy.ids) + 2
    if batch:
        yield batch


def _hidden(model: Model, tokenizer: Tokenizer, rows: list[np.ndarray], positions: list[int]) -> Tensor:
    """Return hidden states (M, H) at one position of each sequence; special tokens are added here."""
    batch = pack_sequences(rows, tokenizer.cls_id, tokenizer.sep_id).to(device())
    at = batch.cu_seqlens[:-1].long() + 1 + torch.tensor(positions, device=batch.ids.device)
    hidden: Tensor = model.encoder(batch).hidden[at]
    return hidden


def _logits(model: Model, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, logits (m, V)) in blocks, so that memory is bounded."""
    size = max(1, MAX_LOGITS // model.settings.vocab_size)
    for start in range(0, len(hidden), size):
        yield start, model.mlm_head(hidden[start : start + size], model.encoder).float()


def _allowed(tokenizer: Tokenizer, vocabulary: int) -> Tensor:
    """Return a mask (V,) of the tokens that can occur in a text."""
    allowed = torch.zeros(vocabulary, dtype=torch.bool)
    allowed[: tokenizer.used_size] = torch.tensor([bool(piece) for piece in tokenizer.pieces])[:vocabulary]
    allowed[sorted(tokenizer.special_ids)] = False
    return allowed
