"""How units become corrupted tokens, predicted positions and labels: the part that all corruptions share.

Every unit draws a random key, and units are taken in the order of their keys. By default the number of corrupted
tokens of a batch is `rate` × its maskable tokens, rounded up or down at random so that its mean is exact. (A coin for
each token would make the count vary and add noise to the loss.) A unit that exceeds the count is taken with the
probability that makes the mean exact, so whole words and spans have no bias. With fixed predictions the count is
round(rate × T), T being all tokens, so that the number of predicted positions depends on T alone (static shapes, no
wait for the device); the last unit is then masked as a whole and predicted as far as the count reaches. In a batch with
fewer maskable tokens than that, the spare positions have the label `IGNORE_INDEX`.

Prediction apart from corruption ("Should You Mask 15% in Masked Language Modeling?", arXiv:2202.08005): a
`predict_rate` below `rate` predicts a random part of the corrupted tokens. Above it, the batch is repeated
⌈predict_rate / rate⌉ times, each copy with another, disjoint set of corrupted tokens, so that every prediction sees
the context of the low rate; the result has more tokens than the batch and its own `cu_seqlens`.

Shape letters: T tokens, B sequences, M predicted positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.corrupt._rates import Rates
from encodery.corrupt._select import select_lowest, sequence_starts, stochastic_round, uniform
from encodery.corrupt._vocabulary import Vocabulary

IGNORE_INDEX = -100


@dataclass(frozen=True, eq=False)
class CorruptedBatch:
    """`ids` (T·copies,) int64; `masked_positions` (M,) int64, the ascending positions in `ids` to predict; `labels`
    (M,) int64, the original ids there (`IGNORE_INDEX` for a spare position); `cu_seqlens` (B·copies+1,) int32, the one
    of the input if copies is 1."""

    ids: Tensor
    masked_positions: Tensor
    labels: Tensor
    cu_seqlens: Tensor
    copies: int = 1


@dataclass(frozen=True)
class Replacement:
    """The fractions of the corrupted tokens that become [MASK] and a random id; the others are kept. `per_unit`: this
    is drawn once for a unit, not for each token."""

    mask: float
    random: float
    per_unit: bool


def unit_breaks(ids: Tensor, cu_seqlens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Return (T,) bool: the first token of each sequence, special tokens, and tokens after a special one."""
    special = vocabulary.special[ids]
    breaks = sequence_starts(cu_seqlens, ids.numel()) | special
    breaks[1:] |= special[:-1]
    return breaks


def corrupt_units(
    ids: Tensor,
    cu_seqlens: Tensor,
    starts: Tensor,
    vocabulary: Vocabulary,
    rates: Rates,
    replacement: Replacement,
    generator: torch.Generator,
) -> CorruptedBatch:
    """Corrupt a packed batch whose units begin where `starts` (T,) is True; arguments as in `Corruption.apply`."""
    unit = starts.cumsum(0) - 1
    keys = uniform(ids.numel(), generator)[unit].masked_fill(vocabulary.special[ids], math.inf)
    copies = rates.copies
    corrupted = _corrupted_tokens(keys, rates, generator)
    positions = _predicted_positions(keys.repeat(copies), corrupted, ids.numel(), rates, generator)
    original = ids.repeat(copies)
    labels = original[positions]
    if rates.fixed:
        labels = labels.masked_fill(~corrupted[positions], IGNORE_INDEX)
    changed = _replace(original, corrupted, unit, vocabulary, replacement, generator)
    if copies > 1:
        offsets = torch.arange(copies, device=ids.device).unsqueeze(1) * ids.numel()
        ends = (cu_seqlens[1:] + offsets).flatten().to(cu_seqlens.dtype)
        cu_seqlens = torch.cat([cu_seqlens[:1], ends])
    return CorruptedBatch(changed, positions, labels, cu_seqlens, copies)


def _corrupted_tokens(keys: Tensor, rates: Rates, generator: torch.Generator) -> Tensor:
    """(T·copies,) bool: the corrupted tokens, disjoint over the copies."""
    tokens = keys.numel() if rates.fixed else int(keys.isfinite().sum())
    sets = []
    for _ in range(rates.copies):
        if rates.fixed:
            taken = select_lowest(keys, round(rates.corrupted * tokens))
        else:
            taken = select_lowest(keys, stochastic_round(rates.corrupted * tokens, generator), generator)
        keys = keys.masked_fill(taken, math.inf)
        sets.append(taken)
    return torch.cat(sets)


def _predicted_positions(
    keys: Tensor, corrupted: Tensor, tokens: int, rates: Rates, generator: torch.Generator
) -> Tensor:
    """(M,) int64 ascending: the corrupted tokens that are predicted."""
    all_predicted = rates.predicted_part > 1 - 1e-6
    if not rates.fixed and all_predicted:
        return corrupted.nonzero().squeeze(1)
    if rates.fixed:
        count = min(round(rates.predicted * tokens), rates.copies * round(rates.corrupted * tokens))
    else:
        count = stochastic_round(rates.predicted_part * int(corrupted.sum()), generator)
    order = keys if all_predicted else uniform(corrupted.numel(), generator)
    order = order.masked_fill(~corrupted, math.inf)
    return torch.topk(order, count, largest=False, sorted=False).indices.sort().values


def _replace(
    ids: Tensor,
    corrupted: Tensor,
    unit: Tensor,
    vocabulary: Vocabulary,
    replacement: Replacement,
    generator: torch.Generator,
) -> Tensor:
    """(T·copies,) int64: `ids` with the corrupted tokens masked, replaced at random, or kept."""
    if replacement.mask >= 1:
        return ids.masked_fill(corrupted, vocabulary.mask_id)
    dice = uniform(ids.numel(), generator)
    if replacement.per_unit:
        dice = dice.view(-1, unit.numel())[:, unit].flatten()
    changed = ids.masked_fill(corrupted & (dice < replacement.mask), vocabulary.mask_id)
    if replacement.random > 0:
        allowed = vocabulary.replacements
        drawn = torch.randint(allowed.numel(), ids.shape, generator=generator, device=ids.device)
        swapped = corrupted & (dice >= replacement.mask) & (dice < replacement.mask + replacement.random)
        changed = torch.where(swapped, allowed[drawn], changed)
    return changed
