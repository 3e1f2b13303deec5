"""How long a new request would wait: what of the others' is done before it, and how fast that goes lately.

A request's texts are due one after another (`batching.py`), so of a request larger than a new one only a part is done
before that. The pace is what really was done in a second of the clock while more waited, with everything that takes the
processor meanwhile; before there was such a second, that of the costs (`costs.py`), else none: a short text alone says
little of a full queue.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

MEMORY = 3.0  # seconds of a full queue, after which a pace counts for a third
LONGEST_WAIT = 60  # seconds told to a client to stay away at most


class Pace:
    """Tokens a second, lately. `speed`: what is known beforehand, 0 for nothing; it counts as one second."""

    def __init__(self, speed: float = 0.0) -> None:
        self._tokens, self._seconds = speed, 1.0 if speed else 0.0

    @property
    def speed(self) -> float:
        """0 where nothing is known."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """So much was done in so long, while more waited."""
        kept = math.exp(-seconds / MEMORY)
        self._tokens, self._seconds = kept * self._tokens + tokens, kept * self._seconds + max(seconds, 1e-9)


class Backlog:
    """Tokens of a line's requests that are not done, by powers of two of what is left of a request."""

    def __init__(self, speed: float = 0.0) -> None:
        self.pace = Pace(speed)
        self.tokens = 0
        self._counts, self._sums = [0] * 64, [0] * 64

    def change(self, before: int, after: int) -> None:
        """A request has `after` tokens left and had `before`."""
        for left, step in ((before, -1), (after, 1)):
            if left > 0:
                place = left.bit_length()
                self._counts[place] += step
                self._sums[place] += step * left
                self.tokens += step * left

    def before(self, tokens: int) -> int:
        """At most so many of each request."""
        place = tokens.bit_length()
        larger = sum(self._counts[place + 1 :]) * tokens
        return sum(self._sums[:place]) + min(self._sums[place], self._counts[place] * tokens) + larger

    def seconds(self, tokens: float) -> float:
        """That so many take; none where the pace is not known."""
        return tokens / self.pace.speed if self.pace.speed else 0.0


def wait(own: Backlog, others: Iterable[Backlog], tokens: int, share: float) -> float:
    """Seconds until a new request of so many tokens in the line `own` begins, about. Of larger ones as much counts as
    it has itself, or as is done in `share` seconds; of other lines as long as its own, since lines take turns."""
    least = max(tokens, round(share * own.pace.speed), 1)
    mine = own.seconds(own.before(least))
    return mine + sum(min(one.seconds(one.tokens), mine) for one in others)


def patience(seconds: float) -> int:
    """What a client is told to stay away, where its request would wait so long."""
    return min(LONGEST_WAIT, max(1, math.ceil(seconds)))
