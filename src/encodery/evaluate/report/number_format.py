"""Formats numbers for readers: counts, bytes, durations and percentages. None is shown as "not recorded"."""

from __future__ import annotations

import math

MISSING = "not recorded"
LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text: 1,234 · 12.3 M · 0.0123 · 3.40e-05.

    Fractions and numbers from a million have `digits` significant digits; other whole numbers have all of theirs.
    """
    if value is None or not math.isfinite(value):
        return MISSING if value is None else "not a number" if math.isnan(value) else "infinite"
    for size, name in LARGE:
        if abs(value) >= size:
            return f"{value / size:.{max(0, digits - 1 - int(math.log10(abs(value) / size)))}f} {name}"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def size(value: float | None) -> str:
    """Return a number of bytes with its unit: 512 B · 3.4 kB · 12.3 MB."""
    if value is None:
        return MISSING
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units: 8.1 s · 5 min 12 s · 3 h 4 min."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def percentage(fraction: float | None) -> str:
    """Return a fraction (0..1) as a percentage with one decimal: 12.5 %."""
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"


def plural(count: int | None, noun: str) -> str:
    """Return a count with its noun: 1 document · 8,123 documents."""
    return MISSING if count is None else f"{count:,} {noun}{'' if count == 1 else 's'}"
