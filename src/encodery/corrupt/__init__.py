"""Corruption: which tokens are hidden, what stands in their place, and which of them are predicted.

One mechanism for the masking literature. The tokens are cut into *units* (the hole a part fills: single tokens,
words, spans). Every unit draws a random key; units are taken in the order of their keys until `rate` of the
maskable tokens is reached; what was taken is replaced by [MASK], by a random id, or kept; all of it, or a part,
is predicted. Everything is vectorised on the device of the batch and reproducible from a generator. A special
token is never taken, and no replacement is special or an id the tokenizer does not use.

The rate, exactly. By default the number of corrupted tokens of a batch is `rate` × its maskable tokens, the
fraction being rounded up or down at random so that its mean is exact; it is not a coin per token, whose count
varies and adds noise to the loss. A unit that overshoots the count is taken with the probability that makes the
mean exact again, so whole words and spans carry no bias. With `fixed_predictions` the count is round(rate × T), T being
all tokens, so the number of rows depends on T alone (static shapes, no wait for the device); the last unit is
then hidden whole and predicted as far as the count reaches. In a batch with fewer maskable tokens than slots the
spare rows carry the target `IGNORED`.

Prediction apart from corruption ("Should You Mask 15% in Masked Language Modeling?", arXiv 2202.08005):
`predict_rate` below `rate` predicts a random part of the corrupted tokens. Above it, the batch is repeated
⌈predict_rate / rate⌉ times, each copy with another, disjoint set of corrupted tokens, so every prediction sees
the context of the low rate; the result has more tokens than the batch and its own `cu_seqlens`.

Shape letters: T tokens, B sequences, M predicted rows, V vocabulary.
"""

from __future__ import annotations

import abc
import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from encodery.base.errors import SettingsError
from encodery.base.parts import Part
from encodery.base.schedule import Schedule
from encodery.corrupt._select import select_lowest, sequence_starts, stochastic_round, uniform

if TYPE_CHECKING:
    from encodery.tokens.tokenizer import Tokenizer

IGNORE_INDEX = -100
DEFAULT_RATE = Schedule.parse(0.15)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What a corruption must know of the tokenizer.

    `special` (V,) bool: ids that are never hidden and never a replacement. `used_size`: ids from here on exist only
    to pad the vocabulary. `word_start` (V,) bool: ids that begin a word.
    """

    mask_id: int
    special: Tensor
    used_size: int
    word_start: Tensor

    def __post_init__(self) -> None:
        size = self.special.numel()
        if self.word_start.numel() != size:
            raise SettingsError(f"vocabulary: {size} special flags but {self.word_start.numel()} word starts.")
        if not 0 <= self.mask_id < size or not 0 < self.used_size <= size:
            raise SettingsError(
                f"vocabulary: mask id {self.mask_id} and used size {self.used_size} must lie within {size} ids."
            )

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """The vocabulary of a tokenizer, on the CPU."""
        special = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
        special[sorted(tokenizer.special_ids)] = True
        starts = torch.zeros_like(special)
        starts[: len(tokenizer.word_start)] = torch.as_tensor(tokenizer.word_start, dtype=torch.bool)
        return cls(tokenizer.mask_id, special, tokenizer.used_size, starts)

    @functools.cached_property
    def replacements(self) -> Tensor:
        """(R,) int64: the ids a random replacement is drawn from."""
        return (~self.special[: self.used_size]).nonzero().squeeze(1)

    def to(self, device: torch.device | str) -> Vocabulary:
        """The same on another device."""
        return replace(self, special=self.special.to(device), word_start=self.word_start.to(device))


@dataclass(frozen=True, eq=False)
class CorruptedBatch:
    """`ids` (T·copies,) int64; `rows` (M,) int64, ascending positions in `ids` to predict; `targets` (M,) int64, the
    original ids there (`IGNORED` for a spare slot); `cu_seqlens` (B·copies+1,) int32, the given one if copies is 1."""

    ids: Tensor
    masked_positions: Tensor
    labels: Tensor
    cu_seqlens: Tensor
    copies: int = 1


@dataclass(frozen=True, kw_only=True)
class Corruption(Part):
    """Contract of a corruption; a part says where units begin.

    Settings: `rate` of the maskable tokens that are corrupted; of these the shares `mask`, `random` and `keep`
    (together 1); `predict_rate` of the maskable tokens that are predicted (absent: those corrupted);
    `fixed_predictions`: the number of predicted rows depends on T alone.
    """

    rate: Schedule = DEFAULT_RATE
    mask: float = 0.8
    random: float = 0.1
    keep: float = 0.1
    predict_rate: Schedule | None = None
    fixed_predictions: bool = False

    def __post_init__(self) -> None:
        shares = (self.mask, self.random, self.keep)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise SettingsError(f"mask, random and keep are {shares}; they must be at least 0 and together make 1.")
        for name, schedule in (("rate", self.rate), ("predict_rate", self.predict_rate)):
            if schedule is not None and not all(0 <= x <= 1 for p in schedule.phases for x in (p.start, p.end)):
                raise SettingsError(f"{name} = '{schedule}': it is a share of the tokens and must stay within 0..1.")
        for step in range(101 if self.predict_rate is not None else 0):
            self._copies(step / 100)

    @property
    def per_unit_replacement(self) -> bool:
        """Whether the tokens of a unit are all masked, all replaced or all kept."""
        return False

    @abc.abstractmethod
    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """(T,) bool: where a unit begins, besides at `breaks`.

        `ids` (T,) int64. `breaks` (T,) bool is True where a unit must begin: at the first token of a sequence, at a
        special token and behind one. The answer need not contain the breaks.
        """

    def rates(self, progress: float) -> tuple[float, float]:
        """(share corrupted, share predicted) of the maskable tokens at `progress` in 0..1."""
        rate = self.rate(progress)
        return rate, rate if self.predict_rate is None else self.predict_rate(progress)

    def apply(
        self, ids: Tensor, cu_seqlens: Tensor, vocabulary: Vocabulary, generator: torch.Generator, progress: float
    ) -> CorruptedBatch:
        """Corrupt a packed batch: `ids` (T,) int64, `cu_seqlens` (B+1,) int32; the generator is on their device."""
        maskable = ~vocabulary.special[ids]
        breaks = sequence_starts(cu_seqlens, ids.numel()) | ~maskable
        breaks[1:] |= ~maskable[:-1]
        unit = (self.unit_starts(ids, breaks, vocabulary, generator) | breaks).cumsum(0) - 1
        keys = uniform(ids.numel(), generator)[unit].masked_fill(~maskable, math.inf)
        copies = self._copies(progress)
        corrupted = self._choose(keys, copies, generator, progress)
        rows = self._rows(keys.repeat(copies), corrupted, ids.numel(), generator, progress)
        original = ids.repeat(copies)
        targets = original[rows]
        if self.fixed_predictions:
            targets = targets.masked_fill(~corrupted[rows], IGNORE_INDEX)
        changed = self._replace(original, corrupted, unit, vocabulary, generator)
        if copies > 1:
            shifts = torch.arange(copies, device=ids.device).unsqueeze(1) * ids.numel()
            ends = (cu_seqlens[1:] + shifts).flatten().to(cu_seqlens.dtype)
            cu_seqlens = torch.cat([cu_seqlens[:1], ends])
        return CorruptedBatch(changed, rows, targets, cu_seqlens, copies)

    def _copies(self, progress: float) -> int:
        """How many disjoint sets of corrupted tokens the predicted share needs."""
        rate, predicted = self.rates(progress)
        if predicted <= rate:
            return 1
        copies = math.ceil(predicted / rate - 1e-6) if rate > 0 else 0
        if not 0 < copies * rate <= 1 + 1e-6:
            raise SettingsError(
                f"predict_rate {predicted:.3g} needs ⌈predict_rate / rate⌉ disjoint sets of {rate:.3g} of the tokens, "
                "which is more than there are. Lower predict_rate, or raise rate."
            )
        return copies

    def _choose(self, keys: Tensor, copies: int, generator: torch.Generator, progress: float) -> Tensor:
        """(T·copies,) bool: the corrupted tokens, disjoint over the copies."""
        rate, _ = self.rates(progress)
        tokens = keys.numel() if self.fixed_predictions else int(keys.isfinite().sum())
        chosen = []
        for _ in range(copies):
            if self.fixed_predictions:
                taken = select_lowest(keys, round(rate * tokens))
            else:
                taken = select_lowest(keys, stochastic_round(rate * tokens, generator), generator)
            keys = keys.masked_fill(taken, math.inf)
            chosen.append(taken)
        return torch.cat(chosen)

    def _rows(
        self, keys: Tensor, corrupted: Tensor, length: int, generator: torch.Generator, progress: float
    ) -> Tensor:
        """(M,) int64 ascending: the corrupted tokens that are predicted."""
        rate, predicted = self.rates(progress)
        copies = corrupted.numel() // max(length, 1)
        part = predicted / (rate * copies) if rate * copies > 0 else 1.0
        whole = part > 1 - 1e-6
        if not self.fixed_predictions and whole:
            return corrupted.nonzero().squeeze(1)
        if self.fixed_predictions:
            count = min(round(predicted * length), copies * round(rate * length))
        else:
            count = stochastic_round(part * int(corrupted.sum()), generator)
        order = keys if whole else uniform(corrupted.numel(), generator)
        order = order.masked_fill(~corrupted, math.inf)
        return torch.topk(order, count, largest=False, sorted=False).indices.sort().values

    def _replace(
        self, ids: Tensor, corrupted: Tensor, unit: Tensor, vocabulary: Vocabulary, generator: torch.Generator
    ) -> Tensor:
        """(T·copies,) int64: `ids` with the corrupted tokens masked, replaced at random, or kept."""
        if self.mask >= 1:
            return ids.masked_fill(corrupted, vocabulary.mask_id)
        dice = uniform(ids.numel(), generator)
        if self.per_unit_replacement:
            dice = dice.view(-1, unit.numel())[:, unit].flatten()
        changed = ids.masked_fill(corrupted & (dice < self.mask), vocabulary.mask_id)
        if self.random > 0:
            allowed = vocabulary.replacements
            at = torch.randint(allowed.numel(), ids.shape, generator=generator, device=ids.device)
            swapped = corrupted & (dice >= self.mask) & (dice < self.mask + self.random)
            changed = torch.where(swapped, allowed[at], changed)
        return changed
