"""A number over the progress of a run: learning rate, mask rate, sequence length, batch, sparsity.

Grammar: phases separated by `;`. A phase is `A` or `A -> B shape`, with an optional `@ percentage%` of the run; phases
without a percentage divide the rest of the run equally. Shapes: `linear`, `cosine`, `sqrt` (1 - sqrt, a common decay),
`exp`. Examples:

    0.15                                        a constant
    0.30 -> 0.15 linear                         a decreasing mask rate
    0 -> 1 linear @ 5%; 1; 1 -> 0 sqrt @ 20%    warm-up, stable, decay

Common schedules have names; their values are factors of a peak of 1: `constant`, `linear(warmup=6%)`,
`cosine(warmup=6%, floor=0.1)`, `one_cycle(warmup=30%)`, `wsd(warmup=5%, decay=20%, floor=0)`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from encodery.base.errors import SettingsError, nearest

SHAPES = ("linear", "cosine", "sqrt", "exp")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
PHASE = re.compile(rf"^({NUMBER})(?:\s*->\s*({NUMBER})(?:\s+([a-z_]+))?)?(?:\s*@\s*({NUMBER})\s*%)?$")
NAMED = re.compile(r"^([a-z_]+)(?:\((.*)\))?$")
DEFAULTS: dict[str, dict[str, float]] = {
    "constant": {"warmup": 0.0},
    "linear": {"warmup": 0.06, "floor": 0.0},
    "cosine": {"warmup": 0.06, "floor": 0.0},
    "one_cycle": {"warmup": 0.30, "start": 0.04, "floor": 0.0},
    "wsd": {"warmup": 0.05, "decay": 0.20, "floor": 0.0},
}


@dataclass(frozen=True)
class Phase:
    """A phase that goes from `start` to `end` with a shape, over a fraction (0..1) of the run."""

    start: float
    end: float
    shape: str
    fraction: float

    def at(self, x: float) -> float:
        """Return the value at the fraction `x` (0..1) of this phase."""
        if self.shape == "cosine":
            x = 0.5 - 0.5 * math.cos(math.pi * x)
        elif self.shape == "sqrt":
            x = math.sqrt(x)
        elif self.shape == "exp":
            return self.start * math.pow(self.end / self.start, x)
        return self.start + (self.end - self.start) * x


@dataclass(frozen=True)
class Schedule:
    """A number over progress in 0..1, made by `Schedule.parse`. It prints as its text."""

    text: str
    phases: tuple[Phase, ...]

    @classmethod
    def parse(cls, value: str | float | int | Schedule) -> Schedule:
        """Parse a number or a text. Raises `SettingsError` with the nearest name of the grammar."""
        if isinstance(value, Schedule):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise SettingsError(f"A schedule must be a number or a text such as '0.30 -> 0.15 linear', not {value!r}.")
        if not isinstance(value, str):
            return cls(repr(value), (Phase(float(value), float(value), "linear", 1.0),))
        text = " ".join(value.split())
        named = NAMED.match(text)
        phases = _named(named[1], named[2] or "", text) if named else _parse_phases(text)
        return cls(text, phases)

    def __call__(self, progress: float) -> float:
        """Return the value at `progress`, which is clamped to 0..1."""
        left = min(max(progress, 0.0), 1.0)
        for phase in self.phases:
            if left < phase.fraction:
                return phase.at(left / phase.fraction)
            left -= phase.fraction
        return self.phases[-1].end

    @property
    def maximum(self) -> float:
        """The largest value of the schedule. Every shape is monotonic within its phase."""
        return max(max(phase.start, phase.end) for phase in self.phases)

    def __str__(self) -> str:
        return self.text


def _parse_phases(text: str) -> tuple[Phase, ...]:
    raw: list[tuple[float, float, str, float | None]] = []
    for piece in text.split(";"):
        match = PHASE.match(piece.strip())
        if not match:
            raise SettingsError(
                f"schedule '{text}': cannot parse '{piece.strip()}'. Write a number or 'A -> B linear', optionally "
                f"with '@ 20%', phases separated by ';', or one of {', '.join(DEFAULTS)}."
            )
        start, end, shape = float(match[1]), float(match[2] or match[1]), match[3] or "linear"
        if shape not in SHAPES:
            raise SettingsError(
                f"schedule '{text}': there is no shape '{shape}'.{nearest(shape, SHAPES)} Shapes: {', '.join(SHAPES)}."
            )
        if shape == "exp" and start * end <= 0:
            raise SettingsError(f"schedule '{text}': shape exp needs a start and an end of the same sign, not 0.")
        raw.append((start, end, shape, float(match[4]) / 100 if match[4] else None))
    total = sum(fraction for *_, fraction in raw if fraction is not None)
    num_open = sum(fraction is None for *_, fraction in raw)
    if total > 1 + 1e-9 or (num_open and total >= 1) or (not num_open and abs(total - 1) > 1e-9):
        raise SettingsError(
            f"schedule '{text}': the percentages add up to {total:.0%}. They must add up to 100%, or to less if a "
            "phase has no percentage."
        )
    rest = (1 - total) / num_open if num_open else 0.0
    return tuple(
        Phase(start, end, shape, rest if fraction is None else fraction) for start, end, shape, fraction in raw
    )


def _named(name: str, arguments: str, text: str) -> tuple[Phase, ...]:
    if name not in DEFAULTS:
        raise SettingsError(
            f"schedule '{text}': there is no schedule '{name}'.{nearest(name, DEFAULTS)} Schedules: "
            f"{', '.join(DEFAULTS)}."
        )
    options = dict(DEFAULTS[name])
    for argument in filter(None, (a.strip() for a in arguments.split(","))):
        key, _, number = (part.strip() for part in argument.partition("="))
        if key not in options:
            raise SettingsError(
                f"schedule '{text}': {name} has no option '{key}'.{nearest(key, options)} "
                f"Options: {', '.join(options)}."
            )
        if not re.fullmatch(NUMBER + r"\s*%?", number):
            raise SettingsError(f"schedule '{text}': {key}={number!r} is not a number or a percentage.")
        options[key] = float(number.rstrip("% ")) / (100 if number.endswith("%") else 1)
    if min(options.values()) < 0 or options["warmup"] + options.get("decay", 0.0) > 1:
        raise SettingsError(f"schedule '{text}': warm-up and decay must lie within the run.")
    return _phases_of(name, options)


def _phases_of(name: str, options: dict[str, float]) -> tuple[Phase, ...]:
    warmup, floor = options["warmup"], options.get("floor", 0.0)
    rise = (
        [Phase(options.get("start", 0.0), 1.0, "cosine" if name == "one_cycle" else "linear", warmup)] if warmup else []
    )
    if name == "constant":
        tail = [Phase(1.0, 1.0, "linear", 1 - warmup)]
    elif name == "wsd":
        tail = [
            Phase(1.0, 1.0, "linear", 1 - warmup - options["decay"]),
            Phase(1.0, floor, "sqrt", options["decay"]),
        ]
    else:
        tail = [Phase(1.0, floor, "linear" if name == "linear" else "cosine", 1 - warmup)]
    return tuple(phase for phase in rise + tail if phase.fraction > 0)
