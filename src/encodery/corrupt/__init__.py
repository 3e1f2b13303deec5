"""Corruption: which tokens of a batch are masked or replaced, and which of them are predicted.

A part divides the tokens into *units* (single tokens, words, spans). Units are drawn at random until a fraction `rate`
of the maskable tokens is reached; each token drawn becomes [MASK], becomes a random id, or is kept. All of them, or a
random part, are predicted. It is vectorised on the batch's device and reproducible from a generator. Special tokens are
never masked, and no replacement is a special or unused id. `_apply.py` states how exactly the rates are kept.
Shape letters: T tokens, B sequences.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.parts import Part
from encodery.base.schedule import Schedule
from encodery.corrupt._apply import IGNORE_INDEX, CorruptedBatch, Replacement, corrupt_units, unit_breaks
from encodery.corrupt._rates import Rates, check_fractions, check_schedules
from encodery.corrupt._vocabulary import Vocabulary

__all__ = ["DEFAULT_RATE", "IGNORE_INDEX", "CorruptedBatch", "Corruption", "Vocabulary"]

DEFAULT_RATE = Schedule.parse(0.15)


@dataclass(frozen=True, kw_only=True)
class Corruption(Part):
    """Contract of a corruption: a part says where units begin, and inherits the rest.

    Settings: `rate`, the fraction of the maskable tokens that is corrupted; `mask`, `random` and `keep`, the fractions
    of these that become [MASK], a random id, or stay (they sum to 1); `predict_rate`, the fraction of the maskable
    tokens that is predicted (default: the corrupted ones); `fixed_predictions`: how many depends on T alone.
    """

    rate: Schedule = DEFAULT_RATE
    mask: float = 0.8
    random: float = 0.1
    keep: float = 0.1
    predict_rate: Schedule | None = None
    fixed_predictions: bool = False

    def __post_init__(self) -> None:
        check_fractions(self.mask, self.random, self.keep)
        check_schedules(self.rate, self.predict_rate)

    @property
    def per_unit_replacement(self) -> bool:
        """Whether the tokens of a unit are all masked, all replaced or all kept."""
        return False

    @abc.abstractmethod
    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """Return (T,) bool: where a unit begins, besides at `breaks`.

        `ids` (T,) int64. `breaks` (T,) bool is True where a unit must begin: at the first token of a sequence, at a
        special token and at the token after one. The result need not contain the breaks.
        """

    def rates(self, progress: float) -> tuple[float, float]:
        """Return (fraction corrupted, fraction predicted) of the maskable tokens at `progress` in 0..1 of the run."""
        rate = self.rate(progress)
        return rate, rate if self.predict_rate is None else self.predict_rate(progress)

    def copies(self, progress: float) -> int:
        """Return how often a batch is repeated, each time with other corrupted tokens: 1 unless predict_rate > rate."""
        return Rates(*self.rates(progress)).copies

    def apply(
        self, ids: Tensor, cu_seqlens: Tensor, vocabulary: Vocabulary, generator: torch.Generator, progress: float
    ) -> CorruptedBatch:
        """Corrupt a packed batch: `ids` (T,) int64, `cu_seqlens` (B+1,) int32; the generator is on their device."""
        breaks = unit_breaks(ids, cu_seqlens, vocabulary)
        starts = self.unit_starts(ids, breaks, vocabulary, generator) | breaks
        rates = Rates(*self.rates(progress), fixed=self.fixed_predictions)
        replacement = Replacement(self.mask, self.random, self.per_unit_replacement)
        return corrupt_units(ids, cu_seqlens, starts, vocabulary, rates, replacement, generator)
