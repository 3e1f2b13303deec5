"""Minimal pairs: whether a masked language model prefers the grammatical one of two sentences. arXiv:1912.00582

Sentences are compared by pseudo-log-likelihood (arXiv:1910.14659); by default the following pieces of a word are masked
together with each piece (arXiv:2305.10588). Nothing is trained. Shapes: N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.settings import check_at_least
from encodery.evaluate.metric_value import MetricValue
from encodery.evaluate.pseudo_likelihood import pseudo_log_likelihoods
from encodery.evaluate.suites import Suite
from encodery.evaluate.suites._rows import read_columns, read_split
from encodery.evaluate.systems import OpenSystem


@dataclass(frozen=True, eq=False)
class MinimalPairTexts:
    """N pairs and the grammatical phenomenon of each."""

    good: list[str]
    bad: list[str]
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.good)


@dataclass(frozen=True, kw_only=True)
class MinimalPairsSuite(Suite):
    """Use it to evaluate the grammatical knowledge of a masked language model.

    Attributes:
        columns: role -> column, for good, bad and kind; others are assigned by name.
        mask_word_rest: mask the rest of a word together with each of its pieces.
        max_per_kind: the maximum number of pairs of a kind; the first ones are used.
    """

    columns: dict[str, str] = field(default_factory=dict)
    mask_word_rest: bool = True
    max_per_kind: int | None = None
    split: str = ""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "max_per_kind")

    @property
    def main_metric(self) -> str:
        return "accuracy"

    def read(self, data: Path) -> MinimalPairTexts:
        columns = read_columns(read_split(data, self.split), ("good", "bad"), self.columns, ("kind",))
        good, bad = columns["good"], columns["bad"]
        kinds = np.array(columns.get("kind", [""] * len(good)))
        kept = np.sort(
            np.concatenate([np.flatnonzero(kinds == kind)[: self.max_per_kind] for kind in np.unique(kinds)])
        )
        return MinimalPairTexts([good[n] for n in kept], [bad[n] for n in kept], kinds[kept])

    def measure(self, items: MinimalPairTexts, system: OpenSystem) -> dict[str, MetricValue]:
        loaded = system.loaded()
        texts = [*items.good, *items.bad]
        with system.counters.clock():
            scored = pseudo_log_likelihoods(loaded, texts, self.mask_word_rest)
        system.counters.add(len(texts), scored.computed, 0, 0)
        good, bad = np.split(scored.sums, 2)
        # A pair with equal scores counts half, for example if the tokenizer drops what differs.
        correct = np.where(good == bad, 0.5, good > bad)
        kinds = [str(kind) for kind in np.unique(items.kinds) if kind]
        by_kind = {f"accuracy, {kind}": MetricValue.mean(correct[items.kinds == kind]) for kind in kinds}
        return {"accuracy": MetricValue.mean(correct), **by_kind}
