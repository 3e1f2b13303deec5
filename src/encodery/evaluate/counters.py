"""Count what a system does: texts, tokens, padding, dropped tokens and the seconds of encoding."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass
class Counters:
    """What a system has done: `seconds` of encoding, `tokens` read, positions of `padding`, and `dropped` tokens.

    A value is None if the system does not report it.
    """

    texts: int = 0
    seconds: float = 0.0
    tokens: int | None = 0
    padding: int | None = 0
    dropped: int | None = 0

    def add(self, texts: int, tokens: int | None, padding: int | None, dropped: int | None) -> None:
        """Count one call."""
        self.texts += texts
        self.tokens = _sum(self.tokens, tokens)
        self.padding = _sum(self.padding, padding)
        self.dropped = _sum(self.dropped, dropped)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Measure the time of encoding."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def since(self, before: Counters) -> Counters:
        """Return what was added since `before`, an earlier copy."""
        return Counters(
            self.texts - before.texts,
            self.seconds - before.seconds,
            _sum(self.tokens, _negative(before.tokens)),
            _sum(self.padding, _negative(before.padding)),
            _sum(self.dropped, _negative(before.dropped)),
        )

    def copy(self) -> Counters:
        """Return a copy of the counts."""
        return replace(self)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _negative(value: int | None) -> int | None:
    return None if value is None else -value
