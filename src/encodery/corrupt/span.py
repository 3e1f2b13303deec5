"""Spans of geometric length: contiguous words are masked together (SpanBERT, arXiv:1907.10529).

Each run of tokens between special tokens is divided into spans whose lengths are drawn from a geometric distribution
(`p` = 0.2, at most `max_length` = 10 and renormalised: 3.8 on average), and spans are units. SpanBERT draws one span
after another and rejects overlaps until the budget is met; dividing first and choosing then gives the same lengths,
needs no loop, and reaches `rate` without bias. The end of a run may shorten its last span. Lengths count words or,
with `whole_words` false, tokens. Whether a span becomes [MASK]s, random ids, or stays is drawn once for the span.
`max_length` = 1 equals `word`, or `token` with `whole_words` false, but for that last point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from encodery.base.settings import check_at_least, check_interval
from encodery.corrupt import Corruption, Vocabulary
from encodery.corrupt._select import uniform


@dataclass(frozen=True, kw_only=True)
class SpanMasking(Corruption):
    """A run of words, or of tokens, is a unit. Use it for models that shall answer with spans of text.

    objective.corruption.is=span objective.corruption.max_length=5
    """

    p: float = 0.2
    max_length: int = 10
    whole_words: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, "0 < x <= 1", "p")
        check_at_least(self, 1, "max_length")

    @property
    def per_unit_replacement(self) -> bool:
        """True: a span is masked, replaced or kept as a whole."""
        return True

    def unit_starts(self, ids: Tensor, breaks: Tensor, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        """Return (T,) bool: the first token of each span.

        Every word draws a length; within a run, the first word's length says where the second span begins, the
        second word's where the third begins, and so on until the run is full.
        """
        T = ids.numel()
        word = breaks | vocabulary.word_start[ids] if self.whole_words else torch.ones_like(breaks)
        number, run = word.cumsum(0) - 1, breaks.cumsum(0) - 1
        position = torch.arange(T, device=ids.device)
        first = torch.where(breaks, position, 0).cummax(0).values
        length = self._lengths(T, generator) * word
        reach = length.cumsum(0)
        next_span = number[first] + reach - (reach - length)[first]
        run_of_word = torch.full((T + 1,), -1, device=ids.device).scatter(0, number, run)
        inside = word & (run_of_word[next_span.clamp(max=T)] == run)
        begins = torch.zeros(T + 1, dtype=torch.bool, device=ids.device)
        begins = begins.index_fill(0, torch.where(inside, next_span, T), True)
        return word & begins[number]

    def _lengths(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) int64 in 1..max_length, from the truncated and renormalised geometric distribution."""
        probability = (1 - self.p) ** torch.arange(self.max_length, dtype=torch.float64)
        cumulative = (probability.cumsum(0) / probability.sum())[:-1].to(generator.device, torch.float32)
        return torch.searchsorted(cumulative, uniform(count, generator), right=True) + 1
