"""Which held-out loss is usual for a model of a size after so many tokens: a band, fitted to runs of our own.

    random        loss / guess = 0.845 - 0.107 ln(tokens / 1e6) - 0.015 ln(parameters / 1e6), 0.15 below to 0.11 above
    cooccurrence  loss / guess = 0.716 - 0.111 ln(tokens / 1e6) - 0.050 ln(parameters / 1e6), 0.13 below to 0.15 above
    bigrams       loss / guess = 0.632 - 0.063 ln(tokens / 1e6) - 0.046 ln(parameters / 1e6), 0.07 below to 0.12 above

by how a run began (`train.begin`). `guess` is the loss of guessing by frequency (`tokens.frequency`), through which
vocabulary and text come in; tied tables count once. Fitted by least squares, each run with the same weight, to 162
held-out scores of 40 runs on CPUs, to 60 of 9 and to 36 of 9: masked language modelling in sequences of 128 tokens,
from nothing, of the recipes nano, tiny, mini and, first row, those of `bench/recipes.py`, at their rates and steps of
1,024 to 4,096 tokens, on manuals of programs and on web or general text; a standard deviation of 0.06, 0.07 and 0.05.
The edges are the farthest of those scores, above and below, rounded up. Scores before 15 % of a run were left out,
since the rate is still rising there.

Outside of what these runs were (`RANGES`) nothing is known, and nothing is said. The edges are wide: blocks with norms
behind them learn late, and manuals are easier than web pages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class LossCurve(NamedTuple):
    """loss / guess = level - by_tokens ln(tokens / 1e6) - by_size ln(parameters / 1e6); its edges `below`, `above`."""

    level: float
    token_slope: float
    size_slope: float
    below: float
    above: float


CURVES = {
    "random": LossCurve(0.845, 0.107, 0.015, 0.15, 0.11),
    "cooccurrence": LossCurve(0.716, 0.111, 0.050, 0.13, 0.15),
    "bigrams": LossCurve(0.632, 0.063, 0.046, 0.07, 0.12),
}
RANGES = {"parameters": (0.2e6, 8e6), "tokens": (0.2e6, 15e6), "steps": (100, 10_000), "vocabulary": (1024, 16_384)}
JUDGED_FROM = 0.15  # of a run, from which on it is judged


@dataclass(frozen=True)
class LossRange:
    """The usual held-out losses at some point of a run; `hint`: what may be wrong where the loss lies above."""

    low: float
    high: float
    tokens: int
    hint: str = "The steps may be too few (smaller train.batch_tokens make more of them), or the text unlike any other."

    @classmethod
    def of(
        cls, unigram_loss: float, parameters: int, vocab_size: int, tokens: int, steps: int, data_init: str = "random"
    ) -> LossRange | None:
        """The band after so many tokens and steps, by the name of the beginning; None for one without a curve, and
        outside of the ranges that it was fitted to."""
        given = {"parameters": parameters, "tokens": tokens, "steps": steps, "vocabulary": vocab_size}
        if data_init not in CURVES or any(not low <= given[name] <= high for name, (low, high) in RANGES.items()):
            return None
        curve = CURVES[data_init]
        middle = (
            curve.level - curve.token_slope * math.log(tokens / 1e6) - curve.size_slope * math.log(parameters / 1e6)
        )
        return cls(unigram_loss * (middle - curve.below), unigram_loss * (middle + curve.above), tokens)

    def contains(self, loss: float) -> bool:
        """Whether a loss is usual; one that is no number is not."""
        return self.low <= loss <= self.high

    def describe(self, loss: float) -> str:
        """Where a loss lies, in words."""
        usual = f"between {self.low:.1f} and {self.high:.1f}"
        if self.contains(loss):
            return f"A held-out loss of {loss:.2f} is usual for this size and so many tokens ({usual})."
        after = f"Held-out loss {loss:.2f} after {self.tokens / 1e6:.1f} M tokens; usual at this size is {usual}"
        if loss < self.low:
            return f"{after}. Perhaps held-out text also stands in the training text, or all of it is much alike."
        return f"{after}. {self.hint}"
