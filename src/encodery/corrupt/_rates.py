"""The fractions of tokens that a corruption corrupts, replaces and predicts, and what they must satisfy."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from encodery.base.errors import SettingsError
from encodery.base.schedule import Schedule


@dataclass(frozen=True)
class Rates:
    """The fractions of the maskable tokens that are corrupted and predicted at one moment of a run. `fixed`: counts
    depend on the number of tokens alone.

    Raises `SettingsError` if the copies that `predicted` needs would corrupt more tokens than there are.
    """

    corrupted: float
    predicted: float
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.predicted > self.corrupted and not 0 < self.copies * self.corrupted <= 1 + 1e-6:
            raise SettingsError(
                f"predict_rate {self.predicted:.3g} needs ⌈predict_rate / rate⌉ disjoint sets of {self.corrupted:.3g} "
                "of the tokens, which is more than there are. Lower predict_rate, or raise rate."
            )

    @functools.cached_property
    def copies(self) -> int:
        """How many disjoint sets of corrupted tokens the predicted fraction needs."""
        if self.predicted <= self.corrupted:
            return 1
        return math.ceil(self.predicted / self.corrupted - 1e-6) if self.corrupted > 0 else 0

    @property
    def predicted_part(self) -> float:
        """The fraction of the corrupted tokens that is predicted."""
        total = self.corrupted * self.copies
        return self.predicted / total if total > 0 else 1.0


def check_fractions(mask: float, random: float, keep: float) -> None:
    """Raise `SettingsError` unless the fractions are not negative and sum to 1."""
    if min(mask, random, keep) < 0 or abs(mask + random + keep - 1) > 1e-6:
        raise SettingsError(f"mask, random and keep are {(mask, random, keep)}; each must be at least 0, their sum 1.")


def check_schedules(rate: Schedule, predict_rate: Schedule | None) -> None:
    """Raise `SettingsError` if a rate leaves 0..1, or `predict_rate` cannot be reached at some moment of the run."""
    for name, schedule in (("rate", rate), ("predict_rate", predict_rate)):
        if schedule is not None and not all(0 <= x <= 1 for p in schedule.phases for x in (p.start, p.end)):
            raise SettingsError(f"{name} = '{schedule}': is a fraction of the tokens and must stay within 0..1.")
    if predict_rate is not None:
        for step in range(101):
            Rates(rate(step / 100), predict_rate(step / 100))
