"""The held-out losses that models of a size usually have after a number of tokens: ranges fitted to our own runs.

    random        loss / unigram = 0.845 - 0.107 ln(tokens / 1e6) - 0.015 ln(parameters / 1e6), from -0.15 to +0.11
    cooccurrence  loss / unigram = 0.716 - 0.111 ln(tokens / 1e6) - 0.050 ln(parameters / 1e6), from -0.13 to +0.15
    bigrams       loss / unigram = 0.632 - 0.063 ln(tokens / 1e6) - 0.046 ln(parameters / 1e6), from -0.07 to +0.12

by data-dependent initialisation (`train.data_init`). `unigram` is the loss of the unigram baseline
(`tokens.unigram_baseline`), which accounts for vocabulary and text; tied embeddings count once. Fitted by least
squares, each run with the same weight, to 162 held-out scores of 40 runs on CPUs, to 60 scores of 9 runs and to 36
scores of 9 runs: masked language modelling in sequences of 128 tokens, from scratch, of the recipes nano, tiny, mini
and, in the first row, those of `bench/recipes.py`, at their learning rates and in steps of 1,024 to 4,096 tokens, on
software manuals and on web or general text; standard deviations 0.06, 0.07 and 0.05. The edges are the farthest of
those scores above and below, rounded up. Scores before 15 % of a run were left out, since the learning rate is still
rising there.

Outside the ranges of these runs (`RANGES`) nothing is known and nothing is reported. The ranges are wide: post-norm
blocks learn late, and manuals are easier than web pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class LossCurve(NamedTuple):
    """loss / unigram = level - token_slope ln(tokens / 1e6) - size_slope ln(parameters / 1e6), from `below` under that
    to `above` over it."""

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


@dataclass(frozen=True)
class RunSize:
    """What a usual loss depends on.

    Args:
        unigram_loss: That of the unigram baseline on the held-out text, in nats.
        parameters: Number of parameters of the model.
        vocab_size: Number of ids.
        tokens: Tokens that were trained on.
        steps: Steps that they were trained in.
        data_init: The name of the data-dependent initialisation.
    """

    unigram_loss: float
    parameters: int
    vocab_size: int
    tokens: int
    steps: int
    data_init: str = "random"


@dataclass(frozen=True)
class LossRange:
    """The usual held-out losses at one point of a run; `hint`: the likely cause if the loss is above."""

    low: float
    high: float
    tokens: int
    hint: str = (
        "Perhaps the run has too few steps (a smaller train.batch_tokens makes more of them), or the text is unlike "
        "that of the runs it is compared with."
    )

    @classmethod
    def of(cls, run: RunSize) -> LossRange | None:
        """That of masked language modelling; None for an initialisation without a curve, and outside `RANGES`."""
        values = {
            "parameters": run.parameters,
            "tokens": run.tokens,
            "steps": run.steps,
            "vocabulary": run.vocab_size,
        }
        if run.data_init not in CURVES or any(not low <= values[name] <= high for name, (low, high) in RANGES.items()):
            return None
        curve = CURVES[run.data_init]
        size = curve.size_slope * math.log(run.parameters / 1e6)
        middle = curve.level - curve.token_slope * math.log(run.tokens / 1e6) - size
        low, high = middle - curve.below, middle + curve.above
        return cls(run.unigram_loss * low, run.unigram_loss * high, run.tokens)

    def contains(self, loss: float) -> bool:
        """Whether a loss is usual; NaN is not."""
        return self.low <= loss <= self.high

    def describe(self, loss: float) -> str:
        """A sentence that compares a loss with the range."""
        usual = f"between {self.low:.1f} and {self.high:.1f}"
        if self.contains(loss):
            return f"A held-out loss of {loss:.2f} is usual for this size and number of tokens ({usual})."
        after = f"Held-out loss {loss:.2f} after {self.tokens / 1e6:.1f} M tokens; usual at this size is {usual}"
        if loss < self.low:
            return f"{after}. Perhaps held-out text also occurs in the training text, or all of the text is much alike."
        return f"{after}. {self.hint}"
