"""The engine: admission, failing units, cancelling, draining; with a model that does what its units say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from encodery.serve.api_error import ApiError
from encodery.serve.engine import EngineSettings, ServingEngine
from encodery.serve.served_model import InferenceRequest, InferenceResult, ServedModel, TokenizedRequest, check_finite


class Words(ServedModel):
    """One unit per text; gives its length. "bad" fails, "nan" gives NaN, "exit" exits the thread, "hold" waits."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.inside = threading.Event()

    def tokenize(self, request: InferenceRequest) -> TokenizedRequest:
        texts = request.inputs["texts"]
        if "unreadable" in texts:
            raise ValueError("unreadable")
        return TokenizedRequest(texts, [10] * len(texts), len(texts))

    def run(self, units: Sequence[str]) -> list[float]:
        self.batches.append(list(units))
        if "hold" in units:
            self.inside.set()
            assert self.gate.wait(10)
        if "exit" in units:
            raise SystemExit(1)
        if "bad" in units:
            raise RuntimeError("bad")
        return [float("nan") if unit == "nan" else float(len(unit)) for unit in units]

    def finish(self, context: int, outputs: Sequence[float]) -> InferenceResult:
        results = np.array(outputs)
        check_finite(results)
        return InferenceResult({}, {"lengths": results}, [10] * context, [0] * context)


Made = Callable[..., tuple[ServingEngine, Words]]


@pytest.fixture
def made() -> Any:
    engines = []

    def make(**settings: Any) -> tuple[ServingEngine, Words]:
        model = Words()
        engine = ServingEngine({"m/words": model}, EngineSettings(runners=1, **settings))
        engines.append((engine, model))
        return engine, model

    yield make
    for engine, model in engines:
        model.gate.set()
        engine.close()
        assert not engine.is_alive


def ask(engine: ServingEngine, *texts: str) -> Any:
    return engine.submit(InferenceRequest("m", "words", {"texts": list(texts)}))


def code(engine: ServingEngine, *texts: str) -> str:
    with pytest.raises(ApiError) as caught:
        ask(engine, *texts).future.result(10)
    return caught.value.code


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_result_has_the_seconds_of_each_stage(made: Made) -> None:
    engine, _ = made()
    answer = ask(engine, "a", "bcd").future.result(10)
    assert answer.arrays["lengths"].tolist() == [1, 3]
    assert set(answer.seconds) == {"wait", "tokenise", "queue", "run", "finish", "total"}
    assert all(value >= 0 for value in answer.seconds.values())
    until(lambda: engine.tokens == 0 and engine.requests == 0)


def test_only_the_failing_units_fail(made: Made) -> None:
    """Several requests are in one batch with a failing one, since the runner is held meanwhile."""
    engine, model = made()
    held = ask(engine, "hold")
    assert model.inside.wait(10)
    ask(engine, "prefetched")
    until(lambda: engine.scheduler.batch_ready)
    good = [ask(engine, "x" * n) for n in range(1, 8)]
    bad = [ask(engine, word) for word in ("bad", "exit", "nan")]
    until(lambda: engine.scheduler.waiting_tokens == 100)
    model.gate.set()
    assert [one.future.result(10).arrays["lengths"][0] for one in good] == list(range(1, 8))
    codes = []
    for one in bad:
        with pytest.raises(ApiError) as caught:
            one.future.result(10)
        codes.append(caught.value.code)
    assert codes == ["internal_error", "internal_error", "non_finite_output"]
    assert held.future.result(10)
    assert any(len(batch) == 10 for batch in model.batches)
    assert ask(engine, "still", "there").future.result(10)


def test_a_request_that_cannot_be_tokenised_fails_alone(made: Made) -> None:
    engine, _ = made()
    assert code(engine, "unreadable") == "internal_error"
    assert ask(engine, "a").future.result(10)


def test_a_request_is_admitted_as_a_whole_or_not_at_all(made: Made) -> None:
    engine, model = made(queue_tokens=100)
    held = ask(engine, "hold", *["a"] * 8)
    assert model.inside.wait(10)
    with pytest.raises(ApiError) as caught:
        ask(engine, *["a" * 40] * 10)
    assert (caught.value.status, caught.value.code) == (429, "overloaded")
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1
    assert engine.tokens == 90
    model.gate.set()
    assert held.future.result(10)
    until(lambda: not engine.requests)
    assert ask(engine, *["a" * 40] * 10).future.result(10)


def test_too_many_tokens(made: Made) -> None:
    engine, _ = made(request_tokens=50)
    assert code(engine, *["a"] * 6) == "too_many_tokens"
    until(lambda: engine.tokens == 0)


def test_cancelled_requests_are_never_computed(made: Made) -> None:
    engine, model = made()
    held = ask(engine, "hold")
    assert model.inside.wait(10)
    waiting = [ask(engine, f"gone{n}") for n in range(20)]
    until(lambda: all(one.tokenized for one in waiting))
    for one in waiting:
        one.cancel()
    model.gate.set()
    assert held.future.result(10)
    assert ask(engine, "last").future.result(10)
    assert not [text for batch in model.batches for text in batch if text.startswith("gone")]
    until(lambda: engine.tokens == 0)
    with pytest.raises(CancelledError):
        waiting[0].future.result(0)


def test_a_small_request_passes_a_large_one(made: Made) -> None:
    engine, model = made(batch_tokens=40)
    held = ask(engine, "hold")
    assert model.inside.wait(10)
    large = ask(engine, *(f"l{n}" for n in range(600)))
    until(lambda: engine.scheduler.waiting_tokens > 0)
    small = ask(engine, "small")
    until(lambda: bool(small.tokenized))
    order: list[str] = []
    large.future.add_done_callback(lambda _: order.append("large"))
    small.future.add_done_callback(lambda _: order.append("small"))
    model.gate.set()
    large.future.result(10)
    small.future.result(10)
    assert held.future.result(10)
    assert order == ["small", "large"]


def test_draining_answers_accepted_requests_and_refuses_new_ones(made: Made) -> None:
    engine, model = made()
    held = ask(engine, "hold")
    assert model.inside.wait(10)
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(engine.drain(10)))
    thread.start()
    until(lambda: engine.draining)
    with pytest.raises(ApiError) as caught:
        ask(engine, "late")
    assert (caught.value.status, caught.value.code) == (503, "draining")
    assert not done
    model.gate.set()
    thread.join(10)
    assert done == [True]
    assert held.future.result(0)


def test_closing_fails_waiting_requests(made: Made) -> None:
    engine, model = made()
    ask(engine, "hold")
    assert model.inside.wait(10)
    waiting = [ask(engine, "a") for _ in range(5)]
    threading.Timer(0.1, model.gate.set).start()
    engine.close()
    for one in waiting:
        with pytest.raises(ApiError) as caught:
            one.future.result(10)
        assert caught.value.code == "stopped"


def test_an_unknown_endpoint(made: Made) -> None:
    engine, _ = made()
    with pytest.raises(ApiError) as caught:
        engine.submit(InferenceRequest("m", "other", {}))
    assert caught.value.status == 404
