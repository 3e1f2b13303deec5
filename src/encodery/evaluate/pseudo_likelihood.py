"""What a masked-language model thinks of a text: pseudo-log-likelihoods, and how high it ranks a word in a gap.

The pseudo-log-likelihood is the sum, over the tokens of a text, of the log probability of each where it alone is hidden
(arXiv:1910.14659). Words of several pieces are then too easy, since each piece gives the others away: `whole` also
hides the pieces of the word that follow (within-word left to right, arXiv:2305.10588). The copies of a text, one a
token, are packed; nothing is padded. Shapes: N texts, n tokens of a text, M rows, V vocabulary.
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
LOGITS_AT_ONCE = 1 << 24


class PseudoLikelihoods(NamedTuple):
    """`sums` (N,) of the log probabilities, `tokens` (N,) of each text, `computed`: tokens of all copies."""

    sums: np.ndarray
    tokens: np.ndarray
    computed: int


class _Copy(NamedTuple):
    text: int
    ids: np.ndarray
    place: int
    truth: int


@torch.inference_mode()
def pseudo_log_likelihoods(
    loaded: LoadedModel, texts: Sequence[str], mask_word_rest: bool = True, batch_tokens: int = BATCH_TOKENS
) -> PseudoLikelihoods:
    """Of each text; an empty one has 0. Raises `InputError` for a text longer than the model takes."""
    model, tokenizer = loaded.model.to(device()).eval(), loaded.tokenizer
    rows = tokenizer.encode_batch(list(texts))
    check_lengths(rows, model)
    sums = np.zeros(len(rows))
    computed = 0
    for copies in _batched(_copies(rows, tokenizer, mask_word_rest), batch_tokens):
        hidden = _hidden(model, tokenizer, [copy.ids for copy in copies], [copy.place for copy in copies])
        truth = torch.tensor([copy.truth for copy in copies], device=hidden.device)
        found = np.concatenate(
            [
                logits.log_softmax(-1).gather(1, truth[start : start + len(logits), None])[:, 0].double().cpu().numpy()
                for start, logits in _logits(model, hidden)
            ]
        )
        np.add.at(sums, [copy.text for copy in copies], found)
        computed += sum(len(copy.ids) + 2 for copy in copies)
    return PseudoLikelihoods(sums, np.array([len(ids) for ids in rows], np.int64), computed)


@torch.inference_mode()
def mask_ranks(
    loaded: LoadedModel, asked: Sequence[np.ndarray], answers: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS
) -> np.ndarray:
    """The rank (N,), from 1, of the best answer among all tokens a text may hold, at the one mask of each row of ids.

    Rows have no special tokens around them but hold one mask; each has at least one answer, by its id.
    """
    model, tokenizer = loaded.model.to(device()).eval(), loaded.tokenizer
    check_lengths(asked, model)
    allowed = _allowed(tokenizer, model.settings.vocab_size).to(device())
    found = np.zeros(len(asked), np.int64)
    copies = (
        _Copy(number, ids, int(np.flatnonzero(ids == tokenizer.mask_id)[0]), number)
        for number, ids in sorted(enumerate(asked), key=lambda pair: -len(pair[1]))
    )
    for some in _batched(copies, batch_tokens):
        hidden = _hidden(model, tokenizer, [copy.ids for copy in some], [copy.place for copy in some])
        for start, logits in _logits(model, hidden):
            held = logits.masked_fill(~allowed, float("-inf"))
            for row, copy in zip(held, some[start : start + len(held)], strict=True):
                best = row[list(answers[copy.text])].max()
                found[copy.text] = 1 + int((row > best).sum())
    return found


def check_lengths(rows: Sequence[np.ndarray], model: Model) -> None:
    """Raises `InputError` naming the first row of ids (n,) that is too long with its special tokens."""
    longest = model.settings.max_length
    for number, ids in enumerate(rows):
        if len(ids) + 2 > longest:
            raise InputError(f"Text {number} has {len(ids)} tokens, the model takes {longest} with its special tokens.")


def _copies(rows: Sequence[np.ndarray], tokenizer: Tokenizer, whole: bool) -> Iterator[_Copy]:
    """A copy of each row for each of its tokens, with that token hidden; rows of like length follow each other."""
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        ids = rows[number].astype(np.int64)
        places = np.arange(len(ids))
        ends = places + 1
        if whole:
            starts = np.flatnonzero(tokenizer.word_start[ids])
            ends = np.append(starts, len(ids))[np.searchsorted(starts, places, side="right")]
        for place in places:
            hidden = ids.copy()
            hidden[place : ends[place]] = tokenizer.mask_id
            yield _Copy(number, hidden, int(place), int(ids[place]))


def _batched(copies: Iterator[_Copy], batch_tokens: int) -> Iterator[list[_Copy]]:
    held: list[_Copy] = []
    filled = 0
    for copy in copies:
        if held and filled + len(copy.ids) + 2 > batch_tokens:
            yield held
            held, filled = [], 0
        held.append(copy)
        filled += len(copy.ids) + 2
    if held:
        yield held


def _hidden(model: Model, tokenizer: Tokenizer, rows: list[np.ndarray], places: list[int]) -> Tensor:
    """Hidden states (M, H) at one place of each row of ids, which gets its special tokens here."""
    batch = pack_sequences(rows, tokenizer.cls_id, tokenizer.sep_id).to(device())
    at = batch.cu_seqlens[:-1].long() + 1 + torch.tensor(places, device=batch.ids.device)
    hidden: Tensor = model.encoder(batch).hidden[at]
    return hidden


def _logits(model: Model, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, logits (m, V)) of so many rows at a time that memory stays bounded."""
    some = max(1, LOGITS_AT_ONCE // model.settings.vocab_size)
    for start in range(0, len(hidden), some):
        yield start, model.mlm_head(hidden[start : start + some], model.encoder).float()


def _allowed(tokenizer: Tokenizer, vocabulary: int) -> Tensor:
    """(V,) bool: tokens that may stand in a text."""
    allowed = torch.zeros(vocabulary, dtype=torch.bool)
    allowed[: tokenizer.used_size] = torch.tensor([bool(piece) for piece in tokenizer.pieces])[:vocabulary]
    allowed[sorted(tokenizer.special_ids)] = False
    return allowed
