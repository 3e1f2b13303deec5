"""Batch costs: the batches they choose, that they are stored, and that no problem with the file stops a server."""

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

COSTS = BatchCosts(2, (16, 64, 256), (0.010, 0.020, 0.050), (0.011, 0.022, 0.060))


class SleepingModel(ServedModel):
    """One unit of one token per word; a batch takes a fixed time. `batches`: the units and the threads of each."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[tuple[int, int]] = []

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        words = request.inputs["texts"][0].split()
        return TokenizedRequest(words, [1] * len(words), len(words))

    def run(self, units: Sequence[str]) -> list[str]:
        self.batches.append((len(units), torch.get_num_threads()))
        time.sleep(self.seconds)
        return list(units)

    def finish(self, context: int, outputs: Sequence[str]) -> InferenceResult:
        return InferenceResult({"words": list(outputs)}, {}, [context], [0])


def request_of(words: int) -> InferenceRequest:
    return InferenceRequest("m", "words", {"texts": ["a " * words]})


PROBE = CostProbe(request_of, {"model": "m"})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENCODERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / costs.FOLDER


@pytest.fixture
def num_measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often costs were measured."""
    seen = []
    monkeypatch.setattr(costs, "measure", lambda *_: seen.append(1) or COSTS)
    return lambda: len(seen)


def test_the_next_batch_follows_the_costs() -> None:
    assert COSTS.speed == 2 * 256 / 0.060
    assert COSTS.batch_tokens == 256
    assert COSTS.next_batch(512, True, 256) == (256, True)
    assert COSTS.next_batch(128, True, 256) == (64, True)
    assert COSTS.next_batch(20, True, 256) == (20, False)  # All cores 10.8 ms, per core 11 ms.
    assert COSTS.next_batch(128, False, 256) == (128, False)
    better = BatchCosts(2, (16, 64, 256), (0.010, 0.012, 0.013), (0.011, 0.022, 0.060))
    assert better.next_batch(512, True, 256) == (256, False)
    assert BatchCosts(2, (16,), (0.01,)).next_batch(512, True, 256) == (256, False)
    assert BatchCosts(1, (10, 1000, 2000), (0.001, 0.0501, 0.1)).batch_tokens == 1000


@pytest.mark.parametrize("columns", [((16, 16), (1.0, 1.0)), ((16,), (0.0,)), ((16,), (float("nan"),)), ((), ())])
def test_impossible_numbers_are_refused(columns: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="costs"):
        BatchCosts(2, *columns)


def test_measuring_uses_all_cores_and_one_core_each() -> None:
    model = SleepingModel()
    results = measure(model, PROBE, 2)
    assert results.tokens == (14, 60, 240, 1020, 2040)
    assert len(results.all_cores) == len(results.per_core) == 5
    assert {threads for _, threads in model.batches} == {1, 2}
    assert len(measure(SleepingModel(0.02), PROBE, 2, max_seconds=0.1).tokens) < 5
    assert measure(SleepingModel(), PROBE, 1).per_core == ()


def test_costs_are_stored_per_model_and_number_of_cores(cache: Path, num_measured: Callable[[], int]) -> None:
    reports: list[str] = []
    assert load_or_measure(SleepingModel(0.01), PROBE, 2, reports.append) == COSTS
    assert load_or_measure(SleepingModel(0.01), PROBE, 2, reports.append) == COSTS
    assert num_measured() == 1
    assert len(reports) == len(list(cache.iterdir())) == 1
    load_or_measure(SleepingModel(0.01), CostProbe(request_of, {"model": "other"}), 2, reports.append)
    load_or_measure(SleepingModel(0.01), PROBE, 3, reports.append)
    assert num_measured() == 3


def test_costs_of_a_busy_machine_are_measured_again(cache: Path, num_measured: Callable[[], int]) -> None:
    reports: list[str] = []
    for model, times in ((SleepingModel(0.01), 1), (SleepingModel(0.01), 1), (SleepingModel(0.001), 2)):
        assert load_or_measure(model, PROBE, 2, reports.append) == COSTS
        assert num_measured() == times
    assert "busy" in reports[1]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"costs": {}}', '{"costs": {"cores": 2, "tokens": [1], "all_cores": ["x"], "per_core": []}}'],
)
def test_a_broken_file_is_measured_again(cache: Path, num_measured: Callable[[], int], content: str) -> None:
    load_or_measure(SleepingModel(), PROBE, 2, lambda _: None)
    (file,) = cache.iterdir()
    file.write_text(content)
    reports: list[str] = []
    assert load_or_measure(SleepingModel(), PROBE, 2, reports.append) == COSTS
    assert num_measured() == 2
    assert "is not a table of batch costs" in reports[0]
    assert load_or_measure(SleepingModel(0.01), PROBE, 2, reports.append) == COSTS
    assert num_measured() == 2


def test_a_full_disk_is_reported_once(
    cache: Path, num_measured: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    reports: list[str] = []
    models = {"a": SleepingModel(), "b": SleepingModel()}
    results = measured_costs(models, {"a": PROBE, "b": CostProbe(request_of, {"model": "b"})}, 2, reports.append)
    assert results == {"a": COSTS, "b": COSTS}
    assert [line for line in reports if "no space left" in line] == reports[1:2]
    assert len(reports) == 2
    assert not list(cache.iterdir())


def test_a_file_size_limit_leaves_no_partial_file(cache: Path, num_measured: Callable[[], int]) -> None:
    """The kernel refuses the write, as on a full disk or over a quota."""
    import resource

    reports: list[str] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        assert load_or_measure(SleepingModel(), PROBE, 2, reports.append) == COSTS
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "not kept" in reports[-1]
    assert not list(cache.iterdir())
    assert load_or_measure(SleepingModel(), PROBE, 2, reports.append) == COSTS  # The limit is gone.
    assert len(list(cache.iterdir())) == 1


def test_a_read_only_folder_is_reported(
    cache: Path, num_measured: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    cache.mkdir(parents=True)
    monkeypatch.setattr(costs, "atomic_write", refuse)
    reports: list[str] = []
    assert load_or_measure(SleepingModel(), PROBE, 2, reports.append) == COSTS
    assert "Read-only file system" in reports[-1]
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert load_or_measure(SleepingModel(), PROBE, 2, reports.append) == COSTS
    assert num_measured() == 2


def test_an_unusable_cache_path_is_reported(
    tmp_path: Path, num_measured: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ENCODERY_CACHE", str(tmp_path / "file" / "cache"))
    reports: list[str] = []
    assert measured_costs(
        {"a": SleepingModel(), "b": SleepingModel()}, {"a": PROBE, "b": PROBE}, 2, reports.append
    ) == {
        "a": COSTS,
        "b": COSTS,
    }
    assert sum("not kept" in line for line in reports) == 1


def test_batches_run_on_one_or_all_cores_by_the_costs() -> None:
    """One batch per core if that is faster, else all cores for one batch."""
    parallel = BatchCosts(2, (1, 1000), (0.010, 10.0), (0.010, 10.0))
    serial = BatchCosts(2, (1, 1000), (0.010, 0.011), (0.010, 10.0))
    for chosen, threads in ((parallel, 1), (serial, 2)):
        model = SleepingModel(0.01)
        with ServingEngine(
            {"m/words": model}, EngineSettings(cores=2, batch_tokens=100), costs={"m/words": chosen}
        ) as engine:
            assert engine.submit(request_of(1)).future.result(10)
            assert model.batches == [(1, 2)]  # A request that waits alone gets all cores.
            assert engine.submit(request_of(400)).future.result(10).tokens == [400]
        assert {count for _, count in model.batches[1:]} == {threads}
        assert all(size <= 100 for size, _ in model.batches)


def test_a_batch_on_all_cores_runs_alone_and_others_run_in_parallel() -> None:
    """One request that waits alone runs on both cores; while it runs, others arrive and then run on one core each."""
    started, gate, pair = threading.Event(), threading.Event(), threading.Barrier(2)
    running, seen, lock = [0], list[tuple[int, int]](), threading.Lock()

    class WatchedModel(SleepingModel):
        def run(self, units: Sequence[str]) -> list[str]:
            with lock:
                running[0] += 1
                number = len(seen)
                seen.append((running[0], torch.get_num_threads()))
            if number == 0:
                started.set()
                assert gate.wait(10)
            elif number <= 2:
                pair.wait(10)  # Two batches are inside at the same time.
            with lock:
                running[0] -= 1
            return list(units)

    with ServingEngine({"m/words": WatchedModel()}, EngineSettings(cores=2, batch_tokens=5)) as engine:
        alone = engine.submit(request_of(5))
        assert started.wait(10)
        others = [engine.submit(request_of(5)) for _ in range(4)]
        deadline = time.monotonic() + 10
        while not (engine.scheduler.batch_ready and engine.scheduler.waiting_tokens == 10):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert seen == [(1, 2)], "no batch starts beside one that has all cores"
        gate.set()
        for pending in (alone, *others):
            pending.future.result(10)
    assert sorted(seen[1:3]) == [(1, 1), (2, 1)]
    assert all(concurrent == 1 for concurrent, threads in seen if threads == 2)


@pytest.mark.parametrize("name", ["words/embed", "sparse/sparse", "ranker/predict", "spans/predict"])
def test_operations_on_many_texts_have_a_cost_probe(folders: dict[str, Path], name: str) -> None:
    model = name.split("/")[0]
    served = open_models(ServeSettings((f"{model}={folders[model]}",)))
    assert set(served.cost_probes) == {name}
    assert sum(served.models[name].tokenize(served.cost_probes[name].request(14)).tokens) >= 14
    assert measure(served.models[name], served.cost_probes[name], 2, max_seconds=0.0).all_cores[0] > 0


def test_a_request_that_would_wait_too_long_is_refused_unless_it_is_large_itself() -> None:
    from encodery.serve.api_error import ApiError

    class HeldModel(SleepingModel):
        def run(self, units: Sequence[str]) -> list[str]:
            assert gate.wait(10)
            return super().run(units)

    gate, costs = threading.Event(), BatchCosts(1, (1,), (0.001,))  # 1000 tokens a second
    with ServingEngine(
        {"m/words": HeldModel()}, EngineSettings(cores=1, queue_seconds=2.0), costs={"m/words": costs}
    ) as engine:
        assert engine.overload_error("words", 10) is None
        large = engine.submit(request_of(30_000))
        for _ in range(7):  # Before each, 0.25 s of the large one and all others are computed.
            engine.submit(request_of(250))
        end = time.monotonic() + 10
        while engine.tokens != 30_000 + 7 * 250 and time.monotonic() < end:
            time.sleep(0.005)
        engine.submit(request_of(250))  # Would wait 2 s.
        with pytest.raises(ApiError) as caught:
            engine.submit(request_of(250))
        assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "overloaded", 3)
        early = engine.overload_error("words", 10)
        assert early is not None
        assert early.code == "overloaded"
        assert engine.overload_error("words", 10_000) is None  # Such a request may take that long itself.
        assert engine.overload_error("other", 10) is None
        assert engine.submit(request_of(80_000)) is not None  # Waits no longer than it takes itself.
        probe = engine.submit(request_of(3), urgent=True)  # Health probes pass waiting requests.
        gate.set()
        assert probe.future.result(10)
        assert not large.future.done()
