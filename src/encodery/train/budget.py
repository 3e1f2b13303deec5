"""Budgets: how long a run lasts, as a time, in tokens or in steps. Schedules run over the progress of the budget.

Written `90s`, `10m`, `2h`, `1.5d`, `200Mtok`, `3Btok` (k, M, B, T before `tok`), `500steps`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from encodery.base.errors import SettingsError

BudgetKind = Literal["seconds", "tokens", "steps"]
SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", re.IGNORECASE)
TOKENS = re.compile(r"([kmbgt]?)tok(?:en)?s?")
STEPS = re.compile(r"([km]?)steps?")
EXAMPLES = "Write a time (90s, 10m, 2h, 1.5d), tokens (200Mtok, 3Btok) or steps (500steps)."


@dataclass(frozen=True)
class Budget:
    """`amount` of `kind`: seconds of training (evaluation and saving included), tokens over all ranks, or steps."""

    kind: BudgetKind
    amount: float

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """The budget that a text describes. Raises `SettingsError` with examples."""
        if isinstance(text, Budget):
            return text
        match = AMOUNT.fullmatch(text.strip().replace("_", "").replace(",", "")) if isinstance(text, str) else None
        if match is None:
            raise SettingsError(f"budget {text!r}: cannot be read. {EXAMPLES}")
        number, unit = float(match[1]), match[2].lower()
        if unit in SECONDS:
            kind, amount = "seconds", number * SECONDS[unit]
        elif tokens := TOKENS.fullmatch(unit):
            kind, amount = "tokens", number * MULTIPLES[tokens[1]]
        elif steps := STEPS.fullmatch(unit):
            kind, amount = "steps", number * MULTIPLES[steps[1]]
        else:
            what = f"'{match[2]}' is no unit" if unit else "has no unit"
            raise SettingsError(f"budget '{text}': {what}. {EXAMPLES}")
        if kind != "seconds":
            amount = math.ceil(amount - 1e-6)
        if amount <= 0:
            raise SettingsError(f"budget '{text}': must be more than 0. {EXAMPLES}")
        return cls(kind, amount)  # type: ignore[arg-type]

    def used(self, elapsed: float, tokens: int, steps: int) -> float:
        """The amount of `kind` that is spent after these seconds, tokens and steps of the run."""
        return {"seconds": elapsed, "tokens": float(tokens), "steps": float(steps)}[self.kind]

    def progress(self, elapsed: float, tokens: int, steps: int) -> float:
        """The fraction that is spent, in 0..1."""
        return min(max(self.used(elapsed, tokens, steps) / self.amount, 0.0), 1.0)

    def done(self, elapsed: float, tokens: int, steps: int) -> bool:
        """Whether the budget is spent."""
        return self.used(elapsed, tokens, steps) >= self.amount

    def remaining(self, elapsed: float, tokens: int, steps: int) -> float:
        """The amount of `kind` that is left, at least 0."""
        return max(self.amount - self.used(elapsed, tokens, steps), 0.0)

    def __str__(self) -> str:
        """The shortest text that `parse` reads back as an equal budget."""
        if self.kind == "steps":
            return f"{int(self.amount)}steps"
        units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)) if self.kind == "seconds" else _TOKEN_UNITS
        for unit, size in units:
            text = f"{self.amount / size:.12g}"
            if self.amount >= size and len(text) <= 4 and float(text) * size == self.amount:
                return text + unit
        return f"{self.amount:.15g}{units[-1][0]}"


_TOKEN_UNITS = (("Ttok", 10**12), ("Btok", 10**9), ("Mtok", 10**6), ("ktok", 10**3), ("tok", 1))
