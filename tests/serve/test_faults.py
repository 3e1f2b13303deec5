"""Faults in use: clients that leave or are slow; models that fail, give NaN or hang; and overload."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.serve.dense_model import DenseModel
from encodery.serve.engine import EngineSettings
from encodery.serve.http import HttpSettings
from encodery.serve.models import ModelRegistry

HEAD = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Poisoned(DenseModel):
    """Fails at w66, gives NaN at w77, and waits at w88."""

    def __init__(self, inner: DenseModel) -> None:
        super().__init__(inner.encoder_model, inner.dims)
        self.gate, self.inside = threading.Event(), threading.Event()
        self.num_units_run = 0

    def run(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen = {int(one) - 5 for ids in units for one in ids}
        if 88 in seen:
            self.inside.set()
            assert self.gate.wait(20)
        if 66 in seen:
            raise RuntimeError("poison")
        self.num_units_run += len(units)
        results = super().run(units)
        return [row * np.nan if 77 + 5 in ids else row for row, ids in zip(results, units, strict=True)]


@pytest.fixture
def poisoned(served: ModelRegistry, start: Any, request: pytest.FixtureRequest) -> Any:
    """A server with the model above and a limit of half a second for a body."""
    served_model = served.models["words/embed"]
    assert isinstance(served_model, DenseModel)
    mine = Poisoned(served_model)
    http = HttpSettings(body_seconds=getattr(request, "param", 30.0))
    running = start(served, EngineSettings(runners=1), http, words__embed=mine)
    yield running, mine
    mine.gate.set()
    running.stop()


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_only_the_failing_input_fails_and_nan_is_an_error(poisoned: Any) -> None:
    running, served_model = poisoned
    served_model.gate.set()
    with running.client() as client, ThreadPoolExecutor(16) as pool:
        texts = [f"w{n % 100}" for n in range(160)]
        results = list(pool.map(lambda text: client.post("/embed", json={"inputs": text}), texts))
        for text, response in zip(texts, results, strict=True):
            if text == "w66":
                assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
                assert "poison" not in response.text
            elif text == "w77":
                assert (response.status_code, response.json()["error"]["code"]) == (500, "non_finite_output")
            else:
                assert response.status_code == 200
                assert "null" not in response.text


def test_aborted_requests_leave_nothing_behind(poisoned: Any) -> None:
    running, served_model = poisoned
    body = b'{"inputs": "%s"}'
    with running.client() as client:
        sockets = []
        for number in range(60):
            place = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])))
            content = body % (b"w88" if not number else b"w1 w2")
            place.sendall(HEAD % len(content) + content)
            sockets.append(place)
            assert served_model.inside.wait(10)
        until(lambda: running.engine.requests == 60)
        for place in sockets:
            place.close()
        until(lambda: running.engine.requests == 0)
        assert running.engine.tokens == 0
        before = served_model.num_units_run
        served_model.gate.set()
        assert client.post("/embed", json={"inputs": "w5"}).status_code == 200
        assert (
            served_model.num_units_run - before <= 3
        )  # The running one, the formed batch (dropped), and the last one.
        assert 'encodery_cancelled_total{endpoint="words/embed"} 60' in client.get("/metrics").text


@pytest.mark.parametrize("poisoned", [0.5], indirect=True)
def test_slow_and_half_closed_clients_are_disconnected(poisoned: Any) -> None:
    running, _ = poisoned
    port = int(running.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as place:
        place.sendall(
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        place.settimeout(10)
        assert b" 408 " in place.recv(4096)
    with socket.create_connection(("127.0.0.1", port)) as place:
        place.sendall(
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        place.shutdown(socket.SHUT_WR)
        place.settimeout(10)
        place.recv(4096)  # With or without an answer, the connection ends.
    content = b'{"inputs": "w1 w2"}'
    with socket.create_connection(("127.0.0.1", port)) as place:  # Half closed with a whole request: it ends, too.
        place.sendall(HEAD % len(content) + content)
        place.shutdown(socket.SHUT_WR)
        assert closed(place)
    with running.client() as client:
        assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
    until(lambda: not running.engine.requests)


def closed(place: socket.socket) -> bool:
    """Whether the other side ends the connection within ten seconds."""
    place.settimeout(10)
    try:
        while place.recv(1 << 20):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("poisoned", [0.5], indirect=True)
def test_endless_heads_and_unread_responses_are_disconnected(poisoned: Any) -> None:
    running, _ = poisoned
    port = int(running.url.rsplit(":", 1)[1])

    def drip(place: socket.socket) -> bool:
        for byte in HEAD:
            try:
                place.sendall(bytes([byte]))
            except ConnectionError:
                return True
            time.sleep(0.1)
        return False

    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    with connected() as silent, connected() as slow, connected() as endless:
        assert drip(slow)
        assert closed(silent)
        endless.settimeout(10)
        with pytest.raises(ConnectionError):
            endless.sendall(b"GET / HTTP/1.1\r\n" + b"x-more: 1\r\n" * 1_000_000)
    content = b'{"inputs": [%s]}' % b", ".join([b'"w1 w2"'] * 2000)
    with connected() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall((HEAD.replace(b"/embed", b"/embed_all") % len(content) + content) * 8)
        until(lambda: not running.server.server_state.connections)
    with running.client() as client:
        assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
    until(lambda: running.engine.requests == 0)


def resident() -> int:
    """The resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def abort(port: int, count: int) -> None:
    """Requests whose clients leave: during the head, during the body, after it, or by a reset."""
    content = b'{"inputs": ["w1 w2 w3", "w4"]}'
    whole = HEAD % len(content) + content
    for number in range(count):
        with socket.create_connection(("127.0.0.1", port)) as place:
            place.sendall(whole[: (20, len(whole) - 9, len(whole), len(whole))[number % 4]])
            if number % 4 == 3:
                place.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_aborted_requests(served: ModelRegistry, start: Any, count: int) -> None:
    running = start(served)
    try:
        port, threads = int(running.url.rsplit(":", 1)[1]), threading.active_count()
        abort(port, 200)
        before = resident()
        abort(port, count)
        # A busy machine lags behind what was sent to it; nothing may remain for ever.
        until(lambda: not running.engine.requests and not running.server.server_state.connections, 120.0)
        assert running.engine.tokens == 0
        assert threading.active_count() <= threads
        assert resident() - before < 30e6
        with running.client() as client:
            assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
    finally:
        running.stop()


def test_overload_is_refused_and_the_server_recovers_at_once(served: ModelRegistry, start: Any) -> None:
    served_model = served.models["words/embed"]
    assert isinstance(served_model, DenseModel)
    mine = Poisoned(served_model)
    running = start(served, EngineSettings(runners=1, queue_tokens=200), words__embed=mine)
    try:
        with running.client() as client, ThreadPoolExecutor(40) as pool:
            jobs = [pool.submit(client.post, "/embed", json={"inputs": "w88 " + "w1 " * 20}) for _ in range(40)]
            until(lambda: sum(job.done() for job in jobs) >= 20)
            mine.gate.set()
            results = [job.result() for job in jobs]
            rejected = [one for one in results if one.status_code == 429]
            assert {one.status_code for one in results} == {200, 429}
            assert all(int(one.headers["retry-after"]) >= 1 for one in rejected)
            assert rejected[0].json()["error"]["code"] == "overloaded"
            assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
            until(lambda: running.engine.tokens == 0)
    finally:
        mine.gate.set()
        running.stop()


def test_every_model_has_a_health_probe_that_it_runs(served: ModelRegistry) -> None:
    assert [sent.model for sent in served.health_probes] == [facts["id"] for facts in served.models_info]
    for sent in served.health_probes:
        assert served.models[sent.endpoint].tokenize(sent).units, sent


def test_health_is_a_probe_through_the_engine(poisoned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running, served_model = poisoned
    with running.client() as client, ThreadPoolExecutor(2) as pool:
        assert client.get("/health/ready").json()["status"] == "ready"
        held = pool.submit(client.post, "/embed", json={"inputs": "w88"})
        until(lambda: running.engine.requests == 1)
        with monkeypatch.context() as patch:
            patch.setattr("encodery.serve.backend.PROBE_SECONDS", 0.3)
            stuck = client.get("/health/ready")
        assert (stuck.status_code, stuck.json()["error"]["code"]) == (503, "engine_stuck")
        assert client.get("/health/live").status_code == 200
        served_model.gate.set()
        assert held.result().status_code == 200
        assert client.get("/health/ready").status_code == 200
        running.app.state.draining = running.engine.draining = True
        assert client.get("/health/ready").status_code == 503
        assert client.post("/embed", json={"inputs": "w1"}).json()["error"]["code"] == "draining"
