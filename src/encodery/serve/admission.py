"""How long a new request would wait: what of the others' is done before it, and how fast that goes lately.

A request's texts are due one after another (`batching.py`), so of a request larger than a new one only a part is done
before that. The pace is what really was done in a second of the clock while more waited, with everything that takes the
processor meanwhile; before there was such a second, that of the costs (`costs.py`), else none: one short text, or the
first batch of a cold model, says little of a full queue.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from encodery.serve.api_error import ApiError
from encodery.serve.batching import SLOWDOWN, UNLIMITED_GRACE

DECAY_SECONDS = 3.0  # seconds of a full queue, after which a pace counts for a third
MIN_SECONDS = 1.0  # seconds of a full queue that tell a pace
MAX_RETRY_AFTER = 60  # seconds told to a client to stay away at most


class Throughput:
    """Tokens a second, lately. `speed`: what is known beforehand, 0 for nothing; it counts as `ENOUGH` seconds."""

    def __init__(self, speed: float = 0.0) -> None:
        self._tokens, self._seconds = speed * MIN_SECONDS, MIN_SECONDS if speed else 0.0

    @property
    def speed(self) -> float:
        """0 where nothing is known."""
        return self._tokens / self._seconds if self._seconds >= MIN_SECONDS else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """So much was done in so long, while more waited."""
        kept = math.exp(-seconds / DECAY_SECONDS)
        self._tokens, self._seconds = kept * self._tokens + tokens, kept * self._seconds + max(seconds, 1e-9)


class Backlog:
    """Tokens of a line's requests that are not done, by powers of two of what is left of a request."""

    def __init__(self, speed: float = 0.0) -> None:
        self.throughput = Throughput(speed)
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

    def tokens_ahead(self, tokens: int) -> int:
        """At most so many of each request."""
        place = tokens.bit_length()
        larger = sum(self._counts[place + 1 :]) * tokens
        return sum(self._sums[:place]) + min(self._sums[place], self._counts[place] * tokens) + larger

    def seconds(self, tokens: float) -> float:
        """That so many take; none where the pace is not known."""
        return tokens / self.throughput.speed if self.throughput.speed else 0.0


def expected_wait(own: Backlog, others: Iterable[Backlog], tokens: int, share: float) -> float:
    """Seconds until a new request of so many tokens in the line `own` begins, about. Of larger ones as much counts as
    it has itself, or as is done in `share` seconds; of other lines as long as its own, since lines take turns."""
    least = max(tokens, round(share * own.throughput.speed), 1)
    mine = own.seconds(own.tokens_ahead(least))
    return mine + sum(min(one.seconds(one.tokens), mine) for one in others)


def retry_after(seconds: float) -> int:
    """What a client is told to stay away, where its request would wait so long."""
    return min(MAX_RETRY_AFTER, max(1, math.ceil(seconds)))


@dataclass(eq=False)
class Reservation:
    """What a request has of a ledger: tokens `reserved` for it, and those `left` to be computed in its `line`."""

    line: str
    reserved: int = 0
    left: int = 0


class AdmissionController:
    """All that was let in and is not answered. `speeds`: of each line, tokens a second, 0 where not known; `most`
    tokens and `seconds` of waiting are allowed. The caller sees to it that one thread at a time is here."""

    def __init__(self, speeds: Mapping[str, float], most: int, seconds: float) -> None:
        self.tokens, self._most, self._seconds = 0, most, seconds
        self._backlogs = {line: Backlog(speed) for line, speed in speeds.items()}
        self._ended = 0.0  # When the last batch did, if more waited then.

    def reserve(self, share: Reservation, tokens: int) -> None:
        """A request has so many tokens, or is gone with 0; none of them is computed yet."""
        self.tokens += tokens - share.reserved
        share.reserved = tokens
        self.set_remaining(share, tokens)

    def set_remaining(self, share: Reservation, tokens: int) -> None:
        """So many of a request's tokens are left to be computed."""
        self._backlogs[share.line].change(share.left, tokens)
        share.left = tokens

    def grace_tokens(self, line: str) -> int:
        """Tokens that may be computed before a request of the line is due."""
        return round(self._seconds * self._backlogs[line].throughput.speed) or UNLIMITED_GRACE

    def batch_finished(self, line: str, tokens: int, more: bool) -> None:
        """A batch of so many tokens ended; whether `more` waits."""
        now = time.perf_counter()
        if self._ended:
            self._backlogs[line].throughput.add(tokens, now - self._ended)
        self._ended = now if more else 0.0

    def overload_error(self, line: str, tokens: int, most: int) -> ApiError | None:
        """Of a request of so many tokens, that may be let in as one of `most`; None where it may be."""
        own = self._backlogs[line]
        others = [one for name, one in self._backlogs.items() if name != line and one.tokens]
        seconds = expected_wait(own, others, tokens, self._seconds / SLOWDOWN)
        if seconds > max(self._seconds, own.seconds(most)):
            said = f"A request would wait for {seconds:.1f} s, and {self._seconds:g} s are allowed."
        elif self.tokens + tokens > self._most:
            said = f"{self.tokens} tokens wait already, and {self._most} may."
            seconds = sum(one.seconds(one.tokens) for one in self._backlogs.values())
        else:
            return None
        return ApiError(429, "overloaded", f"{said} Ask again later.", None, retry_after(seconds))
