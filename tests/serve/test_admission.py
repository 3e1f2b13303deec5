"""Admission: the tokens ahead of a request, the throughput, and both with the queue in a simulated overload."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encodery.serve.admission import Backlog, Throughput, expected_wait, retry_after
from encodery.serve.batching import SLOWDOWN, FairQueue, WorkUnit

SPEED, BATCH, LIMIT = 12_000.0, 1024, 2.0  # tokens per second, tokens of a batch, seconds that a request may wait
GRACE = round(LIMIT * SPEED)


@dataclass(eq=False)
class Request:
    at: float
    sizes: list[int]
    left: int = 0
    answered: float = 0.0
    settled: bool = field(default=False)


def arrivals(times: float, seconds: float) -> Iterator[Request]:
    """Requests of 1, 8 or 32 texts, with `times` the tokens per second that can be computed."""
    rng, at = random.Random(0), 0.0
    while at < seconds:
        count = rng.choices((1, 8, 32), (0.8, 0.15, 0.05))[0]
        sizes = [max(6, int(rng.lognormvariate(3.6, 0.7))) for _ in range(count)]
        yield Request(at, sizes)
        at += rng.expovariate(times * SPEED / 140)


def simulate(request: list[Request]) -> list[Request]:
    """The admitted requests with the times of their answers, by a clock that only batches advance."""
    queue, backlog, clock, taken, place = FairQueue(), Backlog(SPEED), 0.0, [], 0
    while place < len(request) or queue.tokens:
        while place < len(request) and request[place].at <= clock:
            one, tokens = request[place], sum(request[place].sizes)
            place += 1
            if expected_wait(backlog, [], tokens, LIMIT / SLOWDOWN) > max(LIMIT, backlog.seconds(tokens)):
                continue
            one.left = tokens
            backlog.change(0, tokens)
            queue.add("line", [WorkUnit(one, number, size, None) for number, size in enumerate(one.sizes)], grace=GRACE)
            taken.append(one)
        if not queue.tokens:
            clock = max(clock, request[place].at) if place < len(request) else clock
            continue
        batch = queue.take("line", BATCH)
        clock += sum(unit.tokens for unit in batch) / SPEED
        for unit in batch:
            one = unit.owner
            backlog.change(one.left, one.left - unit.tokens)
            one.left -= unit.tokens
            one.answered = clock
    assert backlog.tokens == 0
    return taken


def test_in_overload_no_request_waits_much_longer_than_allowed() -> None:
    request = list(arrivals(3.0, 40.0))
    taken = simulate(request)
    assert sum(sum(one.sizes) for one in taken) > 0.9 * 40 * SPEED  # The machine is never idle.
    for count in (1, 8, 32):
        waits = [one.answered - one.at for one in taken if len(one.sizes) == count]
        share = len(waits) / sum(len(one.sizes) == count for one in request)
        assert 0.2 < share < 0.4  # Every size is admitted.
        own = np.mean([sum(one.sizes) for one in taken if len(one.sizes) == count]) / SPEED
        assert np.percentile(waits, 99) < 1.2 * (LIMIT + SLOWDOWN * own)


def test_after_an_overload_a_request_waits_for_admitted_requests_only() -> None:
    lone = [Request(20.0 + 0.1 * n, [20]) for n in range(60)]
    simulate([*arrivals(3.0, 20.0), *lone])
    assert all(one.answered for one in lone[1:])
    assert max(one.answered - one.at for one in lone if one.answered) < 1.1 * LIMIT
    assert all(one.answered - one.at < 0.2 for one in lone if one.at > 20 + 1.1 * LIMIT)


def test_large_requests_delay_small_ones_little() -> None:
    large, small = [Request(0.01 * n, [50] * 2000) for n in range(2)], [Request(1.0 + 0.1 * n, [20]) for n in range(90)]
    taken = simulate([*large, *small])
    assert len(taken) == 92
    assert max(one.answered - one.at for one in small) < 0.3


def test_a_large_request_is_admitted_beside_one_as_large_but_not_beside_many() -> None:
    backlog = Backlog(1000.0)
    for _ in range(2):
        assert expected_wait(backlog, [], 10_000, 0.25) <= 10.0
        backlog.change(0, 10_000)
    assert expected_wait(backlog, [], 10_000, 0.25) == pytest.approx(20.0)
    assert expected_wait(backlog, [], 10, 0.25) == pytest.approx(0.5)  # Of each as much as is done in a quarter second.


def test_tokens_ahead_of_a_request() -> None:
    backlog = Backlog(100.0)
    sizes = [1, 2, 3, 5, 8, 100, 1000]
    for size in sizes:
        backlog.change(0, size)
    for tokens in (1, 4, 16, 128, 4096):
        exact = sum(min(size, tokens) for size in sizes)
        assert backlog.tokens_ahead(tokens) == exact
    for size in sizes:
        backlog.change(size, 0)
    assert (backlog.tokens, backlog.tokens_ahead(10)) == (0, 0)


def test_other_lines_count_as_long_as_the_own_line() -> None:
    own, other = Backlog(100.0), Backlog(10.0)
    own.change(0, 50)
    other.change(0, 500)
    assert expected_wait(own, [other], 1000, 0.0) == pytest.approx(1.0)
    assert expected_wait(other, [own], 1000, 0.0) == pytest.approx(50.5)
    assert expected_wait(Backlog(100.0), [other], 1000, 0.0) == 0.0
    assert expected_wait(Backlog(), [Backlog()], 10, 0.25) == 0.0  # Nothing is known.


def test_the_throughput_is_that_of_a_full_queue_recently() -> None:
    pace = Throughput()
    assert pace.speed == 0.0
    pace.add(10, 0.9)  # A first batch, on a cold model: nothing is known yet.
    assert pace.speed == 0.0
    pace.add(200, 0.2)
    assert 150 < pace.speed < 210
    for _ in range(200):
        pace.add(200, 0.1)
    assert pace.speed == pytest.approx(2000, rel=0.01)
    known = Throughput(500.0)
    assert known.speed == 500.0
    for _ in range(10):
        known.add(10, 0.1)  # Something else takes the machine: after a second that shows.
    assert 100 < known.speed < 350


def test_retry_after_is_in_whole_seconds() -> None:
    assert [retry_after(seconds) for seconds in (0.0, 1.0, 2.1, 1e9)] == [1, 1, 3, 60]


@given(st.lists(st.floats(1e-6, 30.0), max_size=50))
def test_a_known_throughput_stays_known(seconds: list[float]) -> None:
    pace = Throughput(500.0)
    for one in seconds:
        pace.add(1, one)
        assert pace.speed > 0
