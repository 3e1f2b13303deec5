"""Costs of batches: what is chosen by them, that they are kept, and that no trouble with the file stops a server."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.serve import costs
from encodery.serve.costs import BatchCosts, CostProbe, load_or_measure, measure, measured_costs
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.models import ServeSettings, open_models
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest

SLOW = BatchCosts(2, (16, 64, 256), (0.010, 0.020, 0.050), (0.011, 0.022, 0.060))


class Sleeps(ServedModel):
    """A unit a word, of one token; a batch takes a fixed time, a narrow one twice that."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.ran: list[tuple[int, int]] = []

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        words = request.inputs["texts"][0].split()
        return TokenizedRequest(words, [1] * len(words), len(words))

    def run(self, units: Sequence[str]) -> list[str]:
        self.ran.append((len(units), torch.get_num_threads()))
        time.sleep(self.seconds)
        return list(units)

    def finish(self, context: int, outputs: Sequence[str]) -> InferenceResult:
        return InferenceResult({"words": list(outputs)}, {}, [context], [0])


def asked(words: int) -> InferenceRequest:
    return InferenceRequest("m", "words", {"texts": ["a " * words]})


TRIAL = CostProbe(asked, {"model": "m"})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENCODERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / costs.FOLDER


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often anything was measured."""
    seen = []
    monkeypatch.setattr(costs, "measure", lambda *_: seen.append(1) or SLOW)
    return lambda: len(seen)


def test_what_is_chosen() -> None:
    assert SLOW.speed == 2 * 256 / 0.060
    assert SLOW.batch_tokens == 256
    assert SLOW.next_batch(512, True, 256) == (256, True)
    assert SLOW.next_batch(128, True, 256) == (64, True)
    assert SLOW.next_batch(20, True, 256) == (20, False)  # Together 10.8 ms, apart 11.
    assert SLOW.next_batch(128, False, 256) == (128, False)
    better = BatchCosts(2, (16, 64, 256), (0.010, 0.012, 0.013), (0.011, 0.022, 0.060))
    assert better.next_batch(512, True, 256) == (256, False)
    assert BatchCosts(2, (16,), (0.01,)).next_batch(512, True, 256) == (256, False)
    assert BatchCosts(1, (10, 1000, 2000), (0.001, 0.0501, 0.1)).batch_tokens == 1000


@pytest.mark.parametrize("wrong", [((16, 16), (1.0, 1.0)), ((16,), (0.0,)), ((16,), (float("nan"),)), ((), ())])
def test_figures_that_cannot_be(wrong: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="costs"):
        BatchCosts(2, *wrong)


def test_measured_sizes_and_threads() -> None:
    lane = Sleeps()
    found = measure(lane, TRIAL, 2)
    assert found.tokens == (14, 60, 240, 1020, 2040)
    assert len(found.all_cores) == len(found.per_core) == 5
    assert {threads for _, threads in lane.ran} == {1, 2}
    assert len(measure(Sleeps(0.02), TRIAL, 2, most_seconds=0.1).tokens) < 5
    assert measure(Sleeps(), TRIAL, 1).per_core == ()


def test_kept_and_of_one_model(cache: Path, counted: Callable[[], int]) -> None:
    said: list[str] = []
    assert load_or_measure(Sleeps(0.01), TRIAL, 2, said.append) == SLOW
    assert load_or_measure(Sleeps(0.01), TRIAL, 2, said.append) == SLOW
    assert counted() == 1
    assert len(said) == len(list(cache.iterdir())) == 1
    load_or_measure(Sleeps(0.01), CostProbe(asked, {"model": "other"}), 2, said.append)
    load_or_measure(Sleeps(0.01), TRIAL, 3, said.append)
    assert counted() == 3


def test_what_was_measured_on_a_busy_machine_is_measured_again(cache: Path, counted: Callable[[], int]) -> None:
    said: list[str] = []
    for lane, times in ((Sleeps(0.01), 1), (Sleeps(0.01), 1), (Sleeps(0.001), 2)):
        assert load_or_measure(lane, TRIAL, 2, said.append) == SLOW
        assert counted() == times
    assert "busy" in said[1]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"costs": {}}', '{"costs": {"cores": 2, "tokens": [1], "wide": ["x"], "narrow": []}}']
)
def test_a_broken_file_is_measured_again(cache: Path, counted: Callable[[], int], content: str) -> None:
    load_or_measure(Sleeps(), TRIAL, 2, lambda _: None)
    (file,) = cache.iterdir()
    file.write_text(content)
    said: list[str] = []
    assert load_or_measure(Sleeps(), TRIAL, 2, said.append) == SLOW
    assert counted() == 2
    assert "no table of costs" in said[0]
    assert load_or_measure(Sleeps(0.01), TRIAL, 2, said.append) == SLOW
    assert counted() == 2


def test_a_full_disk_is_told_once_and_done_without(
    cache: Path, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said: list[str] = []
    lanes = {"a": Sleeps(), "b": Sleeps()}
    found = measured_costs(lanes, {"a": TRIAL, "b": CostProbe(asked, {"model": "b"})}, 2, said.append)
    assert found == {"a": SLOW, "b": SLOW}
    assert [line for line in said if "no space left" in line] == said[1:2]
    assert len(said) == 2
    assert not list(cache.iterdir())


def test_a_file_that_may_not_grow_leaves_nothing_behind(cache: Path, counted: Callable[[], int]) -> None:
    """The kernel's own refusal to write, as on a full disk or over a quota."""
    import resource

    said: list[str] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        assert load_or_measure(Sleeps(), TRIAL, 2, said.append) == SLOW
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "not kept" in said[-1]
    assert not list(cache.iterdir())
    assert load_or_measure(Sleeps(), TRIAL, 2, said.append) == SLOW  # Room again.
    assert len(list(cache.iterdir())) == 1


def test_a_folder_that_may_only_be_read(
    cache: Path, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    cache.mkdir(parents=True)
    monkeypatch.setattr(costs, "atomic_write", refuse)
    said: list[str] = []
    assert load_or_measure(Sleeps(), TRIAL, 2, said.append) == SLOW
    assert "Read-only file system" in said[-1]
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert load_or_measure(Sleeps(), TRIAL, 2, said.append) == SLOW
    assert counted() == 2


def test_a_place_that_cannot_be_written(
    tmp_path: Path, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENCODERY_CACHE", str(tmp_path / "file" / "cache"))
    said: list[str] = []
    assert measured_costs({"a": Sleeps(), "b": Sleeps()}, {"a": TRIAL, "b": TRIAL}, 2, said.append) == {
        "a": SLOW,
        "b": SLOW,
    }
    assert sum("not kept" in line for line in said) == 1


def test_batches_run_as_the_costs_say() -> None:
    """Side by side where that is faster, on all cores where it is not."""
    cheap = BatchCosts(2, (1, 1000), (0.010, 10.0), (0.010, 10.0))
    dear = BatchCosts(2, (1, 1000), (0.010, 0.011), (0.010, 10.0))
    for known, threads in ((cheap, 1), (dear, 2)):
        lane = Sleeps(0.01)
        with ServingEngine(
            {"m/words": lane}, EngineSettings(cores=2, batch_tokens=100), costs={"m/words": known}
        ) as engine:
            assert engine.submit(asked(1)).future.result(10)
            assert lane.ran == [(1, 2)]  # One that waits alone has all cores.
            assert engine.submit(asked(400)).future.result(10).tokens == [400]
        assert {count for _, count in lane.ran[1:]} == {threads}
        assert all(size <= 100 for size, _ in lane.ran)


def test_two_batches_never_share_cores_with_one_that_has_all() -> None:
    running, seen, lock = [0], [], threading.Lock()

    class Watched(Sleeps):
        def run(self, units: Sequence[str]) -> list[str]:
            with lock:
                running[0] += 1
                seen.append((running[0], torch.get_num_threads()))
            time.sleep(0.003)
            with lock:
                running[0] -= 1
            return list(units)

    with ServingEngine({"m/words": Watched()}, EngineSettings(cores=2, batch_tokens=5)) as engine:
        tickets = [engine.submit(asked(1 + n % 9)) for n in range(60)]
        for ticket in tickets:
            ticket.future.result(10)
    assert all(beside == 1 for beside, threads in seen if threads == 2)
    assert {threads for _, threads in seen} >= {1}


@pytest.mark.parametrize("name", ["words/embed", "sparse/sparse", "ranker/predict", "spans/predict"])
def test_lanes_of_many_texts_have_a_trial(folders: dict[str, Path], name: str) -> None:
    model = name.split("/")[0]
    served = open_models(ServeSettings((f"{model}={folders[model]}",)))
    assert set(served.cost_probes) == {name}
    assert sum(served.models[name].tokenize(served.cost_probes[name].request(14)).tokens) >= 14
    assert measure(served.models[name], served.cost_probes[name], 2, most_seconds=0.0).all_cores[0] > 0


def test_work_that_waits_too_long_is_refused_and_one_large_request_is_not_that() -> None:
    from encodery.serve.api_error import ApiError

    class Held(Sleeps):
        def run(self, units: Sequence[str]) -> list[str]:
            assert gate.wait(10)
            return super().run(units)

    gate, known = threading.Event(), BatchCosts(1, (1,), (0.001,))  # 1000 tokens a second
    with ServingEngine(
        {"m/words": Held()}, EngineSettings(cores=1, queue_seconds=2.0), costs={"m/words": known}
    ) as engine:
        assert engine.overload_error("words", 10) is None
        large = engine.submit(asked(30_000))
        for _ in range(7):  # A quarter second of the large one is done before each, and all of the others.
            engine.submit(asked(250))
        end = time.monotonic() + 10
        while engine.tokens != 30_000 + 7 * 250 and time.monotonic() < end:
            time.sleep(0.005)
        engine.submit(asked(250))  # At 2 s.
        with pytest.raises(ApiError) as caught:
            engine.submit(asked(250))
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "overloaded", 3)
        early = engine.overload_error("words", 10)
        assert early is not None
        assert early.code == "overloaded"
        assert engine.overload_error("words", 10_000) is None  # It might be one that takes so long itself.
        assert engine.overload_error("other", 10) is None
        assert engine.submit(asked(80_000)) is not None  # Waits no longer than it takes itself.
        beat = engine.submit(asked(3), urgent=True)  # Health passes what waits.
        gate.set()
        assert beat.future.result(10)
        assert not large.future.done()
