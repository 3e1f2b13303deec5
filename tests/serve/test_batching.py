"""The fair queue: the order of requests, the size of batches, and dropped units."""

from __future__ import annotations

from dataclasses import dataclass, field

from encodery.serve.batching import FairQueue, WorkUnit


@dataclass
class Owner:
    name: str
    settled: bool = field(default=False)


def add(queue: FairQueue, model: str, name: str, tokens: list[int]) -> Owner:
    owner = Owner(name)
    queue.add(model, [WorkUnit(owner, number, count, None) for number, count in enumerate(tokens)])
    return owner


def take(queue: FairQueue, budget: int, max_units: int = 1 << 20) -> tuple[str, list[WorkUnit]]:
    """The line that is served, and the batch."""
    while (line := queue.next_line()) is not None:
        if batch := queue.take(line, budget, max_units):
            return line, batch
    return "", []


def names(units: list[WorkUnit]) -> str:
    return "".join(unit.owner.name for unit in units)


def test_a_small_request_does_not_wait_for_the_rest_of_a_large_one() -> None:
    queue = FairQueue()
    add(queue, "lane", "L", [10] * 100)
    assert names(take(queue, 50)[1]) == "LLLLL"
    add(queue, "lane", "s", [10])
    assert "s" in names(take(queue, 50)[1])


def test_a_large_request_does_not_starve() -> None:
    queue = FairQueue()
    add(queue, "lane", "L", [10] * 20)
    taken = ""
    for _ in range(60):
        add(queue, "lane", "s", [10])
        taken += names(take(queue, 20)[1])
    assert taken.count("L") == 20


def test_overdue_units_pass_an_endless_stream_of_short_requests() -> None:
    """Without due times the large request would never be served: a new request is always before its next unit."""
    queue, large = FairQueue(), Owner("L")
    add(queue, "lane", "s", [10] * 2)
    queue.add("lane", [WorkUnit(large, number, 10, None) for number in range(5)], grace=100)
    done, order = 0, ""
    for _ in range(60):
        add(queue, "lane", "s", [10])
        add(queue, "lane", "s", [10])
        batch = take(queue, 10)[1]
        order += names(batch)
        done += 10
    # First as a new request, then once 100 tokens are computed, and after 80 more for each ten tokens of this request.
    assert [place for place, name in enumerate(order) if name == "L"] == [1, 18, 26, 34, 42]


def test_batches_keep_the_budget_and_a_longer_unit_is_alone() -> None:
    queue = FairQueue()
    add(queue, "lane", "a", [30, 30, 30, 500, 1])
    sizes = []
    while batch := take(queue, 64)[1]:
        sizes.append([unit.tokens for unit in batch])
    assert sizes == [[30, 30], [30], [500], [1]]
    assert queue.tokens == 0


def test_a_batch_is_of_one_line_and_lines_share_time() -> None:
    queue = FairQueue()
    add(queue, "cheap", "c", [10] * 1000)
    add(queue, "dear", "d", [10] * 1000)
    for _ in range(50):
        queue.record_rate("cheap", 100, 0.01)
        queue.record_rate("dear", 100, 0.03)
    models = [take(queue, 100)[0] for _ in range(80)]
    assert 55 <= models.count("cheap") <= 65


def test_a_batch_has_at_most_max_units() -> None:
    queue = FairQueue()
    add(queue, "lane", "a", [1, 1, 1])
    assert len(take(queue, 100, 2)[1]) == 2


def test_units_of_settled_requests_are_dropped() -> None:
    queue = FairQueue()
    owner = add(queue, "lane", "a", [10, 10])
    add(queue, "lane", "b", [10])
    owner.settled = True
    assert names(take(queue, 100)[1]) == "b"
    assert queue.tokens == 0
    assert take(queue, 100) == ("", [])


def test_an_urgent_request_passes_all_others() -> None:
    queue = FairQueue()
    add(queue, "lane", "a", [10] * 5)
    take(queue, 20)
    add(queue, "lane", "b", [10])
    queue.add("lane", [WorkUnit(Owner("f"), 0, 10, None)], first=True)
    assert names(take(queue, 20)[1]) == "fb"
    assert queue.divisible("lane")
