"""Admission: how long a new request would wait, and whether it is let in.

The texts of a request are served one after another (`batching.py`), so of a request that is larger than the new one
only a part is computed before it. The throughput is what was computed per second of the clock while more waited, other
load of the processor included. Until there was such a second it is that of the measured costs (`costs.py`); else it is
unknown: a single short text, or the first batch of a cold model, says little about a full queue.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from encodery.serve.api_error import ApiError
from encodery.serve.batching import SLOWDOWN, UNLIMITED_GRACE

DECAY_SECONDS = 3.0  # Seconds of a full queue after which a measurement has 1/e of its weight.
MIN_SECONDS = 1.0  # Seconds of a full queue after which the throughput is known.
MAX_RETRY_AFTER = 60  # Seconds.


class Throughput:
    """Recent tokens per second. `speed`: what is known beforehand, with the weight of `MIN_SECONDS`; 0 if unknown."""

    def __init__(self, speed: float = 0.0) -> None:
        self._tokens, self._seconds = speed * MIN_SECONDS, MIN_SECONDS if speed else 0.0

    @property
    def speed(self) -> float:
        """Tokens per second, 0 if unknown."""
        return self._tokens / self._seconds if self._seconds >= MIN_SECONDS else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Record tokens that were computed in `seconds` while more waited."""
        decay = math.exp(-seconds / DECAY_SECONDS)
        self._tokens, self._seconds = decay * self._tokens + tokens, decay * self._seconds + max(seconds, 1e-9)


class Backlog:
    """Tokens of a line's requests that are not computed, by powers of two of what remains of a request."""

    def __init__(self, speed: float = 0.0) -> None:
        self.throughput = Throughput(speed)
        self.tokens = 0
        self._counts, self._sums = [0] * 64, [0] * 64

    def change(self, before: int, after: int) -> None:
        """A request has `after` tokens left and had `before`."""
        for left, step in ((before, -1), (after, 1)):
            if left > 0:
                bucket = left.bit_length()
                self._counts[bucket] += step
                self._sums[bucket] += step * left
                self.tokens += step * left

    def tokens_ahead(self, tokens: int) -> int:
        """The tokens of all requests, at most `tokens` of each."""
        bucket = tokens.bit_length()
        larger = sum(self._counts[bucket + 1 :]) * tokens
        return sum(self._sums[:bucket]) + min(self._sums[bucket], self._counts[bucket] * tokens) + larger

    def seconds(self, tokens: float) -> float:
        """The time that the tokens take; 0 if the throughput is unknown."""
        return tokens / self.throughput.speed if self.throughput.speed else 0.0


def expected_wait(own: Backlog, others: Iterable[Backlog], tokens: int, min_seconds: float) -> float:
    """About the seconds until a new request of `tokens` in the line of `own` starts. Of larger requests as many tokens
    count as it has itself, or as are computed in `min_seconds`; other lines count as long as its own at most, since
    lines take turns."""
    counted = max(tokens, round(min_seconds * own.throughput.speed), 1)
    seconds = own.seconds(own.tokens_ahead(counted))
    return seconds + sum(min(other.seconds(other.tokens), seconds) for other in others)


def retry_after(seconds: float) -> int:
    """The `Retry-After` for a request that would wait `seconds`."""
    return min(MAX_RETRY_AFTER, max(1, math.ceil(seconds)))


@dataclass(eq=False)
class Reservation:
    """The tokens `reserved` for a request, and those `left` to be computed in its `line`."""

    line: str
    reserved: int = 0
    left: int = 0


class AdmissionController:
    """Counts all requests that were admitted and have no result. `speeds`: tokens per second by line, 0 if unknown;
    `max_tokens` and `max_seconds`: limits of what waits. Not thread-safe: the caller holds a lock."""

    def __init__(self, speeds: Mapping[str, float], max_tokens: int, max_seconds: float) -> None:
        self.tokens, self._max_tokens, self._max_seconds = 0, max_tokens, max_seconds
        self._backlogs = {line: Backlog(speed) for line, speed in speeds.items()}
        self._last_end = 0.0  # Of the last batch, if more waited then.

    def reserve(self, reservation: Reservation, tokens: int) -> None:
        """A request has `tokens`, none of which is computed yet; 0 releases it."""
        self.tokens += tokens - reservation.reserved
        reservation.reserved = tokens
        self.set_remaining(reservation, tokens)

    def set_remaining(self, reservation: Reservation, tokens: int) -> None:
        """`tokens` of a request are left to be computed."""
        self._backlogs[reservation.line].change(reservation.left, tokens)
        reservation.left = tokens

    def grace_tokens(self, line: str) -> int:
        """Tokens that may be computed before a new request of the line is due."""
        return round(self._max_seconds * self._backlogs[line].throughput.speed) or UNLIMITED_GRACE

    def batch_finished(self, line: str, tokens: int, more: bool) -> None:
        """A batch of `tokens` ended, and `more` waits or not."""
        now = time.perf_counter()
        if self._last_end:
            self._backlogs[line].throughput.add(tokens, now - self._last_end)
        self._last_end = now if more else 0.0

    def overload_error(self, line: str, tokens: int, max_tokens: int) -> ApiError | None:
        """The error for a request of `tokens` in a line, None if it can be admitted. A request of `max_tokens` may wait
        as long as it takes itself, which is known of the request before its body is read."""
        own = self._backlogs[line]
        others = [other for name, other in self._backlogs.items() if name != line and other.tokens]
        seconds = expected_wait(own, others, tokens, self._max_seconds / SLOWDOWN)
        if seconds > max(self._max_seconds, own.seconds(max_tokens)):
            message = f"A request would wait for {seconds:.1f} s; at most {self._max_seconds:g} s are allowed."
        elif self.tokens + tokens > self._max_tokens:
            message = f"{self.tokens} tokens are waiting; at most {self._max_tokens} are allowed."
            seconds = sum(backlog.seconds(backlog.tokens) for backlog in self._backlogs.values())
        else:
            return None
        return ApiError(429, "overloaded", f"{message} Try again later.", None, retry_after(seconds))
