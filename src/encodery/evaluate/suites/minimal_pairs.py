"""Minimal pairs: does a masked-language model find the grammatical one of two sentences likelier? arXiv:1912.00582

Sentences are compared by their pseudo-log-likelihoods (arXiv:1910.14659), by default with the pieces of a word hidden
together with those that follow (arXiv:2305.10588). Nothing is trained. Shapes: N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encodery.base.errors import SettingsError
from encodery.evaluate.pseudo_likelihood import pseudo_log_likelihoods
from encodery.evaluate.suites import MetricValue, Suite
from encodery.evaluate.suites._rows import read_columns, read_split
from encodery.evaluate.systems import OpenSystem


@dataclass(frozen=True, eq=False)
class MinimalPairTexts:
    """N pairs, and what each is about."""

    good: list[str]
    bad: list[str]
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.good)


@dataclass(frozen=True, kw_only=True)
class MinimalPairsSuite(Suite):
    """`columns`: those of good, bad and, if there is one, kind, guessed where not told. `whole`: hide the rest of a
    word with each of its pieces. `most`: pairs at most of each kind, the first ones."""

    columns: dict[str, str] = field(default_factory=dict)
    mask_word_rest: bool = True
    max_per_kind: int | None = None
    split: str = ""

    def __post_init__(self) -> None:
        if self.max_per_kind is not None and self.max_per_kind < 1:
            raise SettingsError(f"most = {self.max_per_kind}: must be at least 1.")

    @property
    def main_metric(self) -> str:
        return "accuracy"

    def read(self, data: Path) -> MinimalPairTexts:
        found = read_columns(read_split(data, self.split), ("good", "bad"), self.columns, ("kind",))
        good, bad = found["good"], found["bad"]
        kinds = np.array(found.get("kind", [""] * len(good)))
        kept = np.sort(
            np.concatenate([np.flatnonzero(kinds == kind)[: self.max_per_kind] for kind in np.unique(kinds)])
        )
        return MinimalPairTexts([good[n] for n in kept], [bad[n] for n in kept], kinds[kept])

    def measure(self, items: MinimalPairTexts, system: OpenSystem) -> dict[str, MetricValue]:
        loaded = system.loaded()
        texts = [*items.good, *items.bad]
        with system.counters.clock():
            found = pseudo_log_likelihoods(loaded, texts, self.mask_word_rest)
        system.counters.add(len(texts), found.computed, 0, 0)
        good, bad = np.split(found.sums, 2)
        # A pair that cannot be told apart, as when the tokenizer drops what differs, is a guess.
        each = np.where(good == bad, 0.5, good > bad)
        named = [str(kind) for kind in np.unique(items.kinds) if kind]
        by_kind = {f"accuracy, {kind}": MetricValue.mean(each[items.kinds == kind]) for kind in named}
        return {"accuracy": MetricValue.mean(each), **by_kind}
