"""Replicas on a cluster: what a front does with their answers and deaths; and all of it by Ray, on this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from encodery.base.errors import InputError, MissingExtra
from encodery.cli.serve import command as serve
from encodery.encoders.dense import DenseEncoder
from encodery.finetune.predict import Predictor
from encodery.model.load import LoadedModel, load_model
from encodery.runtimes.kind.packed_int8 import PackedInt8
from encodery.runtimes.native import LIBRARY
from encodery.serve.api_error import ApiError
from encodery.serve.cluster import RayBackend, ReplicaAddress
from encodery.serve.replica import Replica
from encodery.serve.served_model import InferenceRequest, InferenceResult

REQUEST = InferenceRequest("words", "embed", {"texts": ["w1"]})


class Died(Exception):
    """The error by which Ray reports a dead replica."""


class Response:
    """A response of Ray Serve, which is awaited or cancelled."""

    def __init__(self, outcome: Any) -> None:
        self.outcome, self.cancelled = outcome, False

    def __await__(self) -> Any:
        if self.outcome is None:
            yield from asyncio.sleep(60).__await__()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A handle of Ray Serve that gives one outcome after another."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes, self.responses, self.infer = list(outcomes), list[Response](), self

    def remote(self, request: InferenceRequest, urgent: bool) -> Response:
        self.responses.append(Response(self.outcomes.pop(0)))
        return self.responses[-1]


def remote(*outcomes: Any) -> tuple[RayBackend, Handle, Counter[str]]:
    handle, counts = Handle(*outcomes), Counter[str]()

    def record(name: str, endpoint: str, value: float) -> None:
        counts[name] += int(value)

    return RayBackend(handle, [], [REQUEST], record, (Died,)), handle, counts


def test_a_request_whose_replica_dies_is_sent_to_another_once() -> None:
    answer = InferenceResult({"hits": 1}, dropped=[2])
    front, handle, counts = remote(Died(), answer)
    assert asyncio.run(front.infer(REQUEST)) is answer
    assert len(handle.responses) == 2
    assert counts == {"accepted": 1, "dropped_tokens": 2}
    front, handle, counts = remote(Died(), Died(), answer)
    with pytest.raises(ApiError, match="2 replicas died") as raised:
        asyncio.run(front.infer(REQUEST))
    assert (raised.value.status, raised.value.code, counts["failed"]) == (503, "replica_lost", 1)


def test_an_error_of_a_replica_keeps_its_fields() -> None:
    made = ApiError(429, "overloaded", "Too many requests are waiting.", None, 7)
    front, _, counts = remote(made.fields())
    with pytest.raises(ApiError) as raised:
        asyncio.run(front.infer(REQUEST))
    assert raised.value.fields() == made.fields()
    assert counts == {"accepted": 1, "refused": 1}


def test_a_cancelled_request_is_withdrawn_and_draining_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encodery.serve.backend.PROBE_SECONDS", 0.05)

    async def scenario() -> None:
        front, handle, counts = remote(None, None)
        going = asyncio.ensure_future(front.infer(REQUEST))
        await asyncio.sleep(0.01)
        assert front.load() == {"requests": 1, "tokens": REQUEST.estimate_tokens()}
        assert not await front.drain(0.05)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        assert handle.responses[0].cancelled
        assert counts == {"accepted": 1, "cancelled": 1}
        assert await front.drain(1)
        with pytest.raises(ApiError, match="No replica answered") as raised:
            await front.probe()
        assert (raised.value.status, handle.responses[1].cancelled) == (503, True)

    asyncio.run(scenario())


def test_a_replica_answers_like_a_worker_without_http(folders: dict[str, Path], base: LoadedModel) -> None:
    opening = {"models": (f"words={folders['words'].name}",), "threads": 1}
    before = os.getcwd()
    try:
        replica = Replica(opening, {"cores": 1}, str(folders["words"].parent), True)
    finally:
        os.chdir(before)
    about = asyncio.run(replica.about())
    assert (about["error"], about["models_info"][0]["id"]) == ("", "words")
    answer = asyncio.run(replica.infer(REQUEST))
    assert isinstance(answer, InferenceResult)
    assert np.abs(answer.arrays["vectors"] - DenseEncoder.from_loaded(base).encode(["w1"]).vectors).max() < 1e-6
    rejected = asyncio.run(replica.infer(InferenceRequest("words", "embed", {"texts": ["w1 " * 99]})))
    assert isinstance(rejected, dict)
    assert (rejected["status"], rejected["code"]) == (400, "input_too_long")
    asyncio.run(replica.check_health())
    replica.backend.engine.close()
    with pytest.raises(ApiError):
        asyncio.run(replica.check_health())
    broken = Replica({"models": ("nowhere",)}, {}, before, True)
    assert "nowhere" in asyncio.run(broken.about())["error"]
    asyncio.run(broken.check_health())  # Healthy, or Ray would restart it without end.


def test_options_that_ray_cannot_serve_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Did you mean 'ray'"):
        serve(models=["m"], engine="rya")
    with pytest.raises(InputError, match="on one machine use --workers"):
        serve(models=["m"], replicas=2)
    monkeypatch.setattr("os.environ", dict(os.environ))  # Ray's variables are set for this test only.
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'encodery\[ray\]'"):
        serve(models=["m"], engine="ray")
    assert ReplicaAddress.parse(ReplicaAddress("127.0.0.1:6379", "encodery-1").to_argument()) == ReplicaAddress(
        "127.0.0.1:6379", "encodery-1"
    )


def test_a_replica_of_this_machine_listens_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve opens a port of every replica to the network: see `_bind_to_loopback`."""
    theirs = ModuleType("ray.serve._private.replica")
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    broken = Replica({"models": ("nowhere",)}, {}, os.getcwd(), True).error
    assert "listens on the network" in broken
    assert "listens on the network" not in Replica({"models": ("nowhere",)}, {}, os.getcwd(), False).error
    bound: list[str] = []
    theirs.add_port_to_grpc_server = lambda server, address: bound.append(address)  # type: ignore[attr-defined]
    Replica({"models": ("nowhere",)}, {}, os.getcwd(), True)
    theirs.add_port_to_grpc_server(None, "[::]:0")
    assert bound == ["127.0.0.1:0"]


def listens_elsewhere(pids: list[int]) -> list[str]:
    """Addresses beyond loopback, as the kernel writes them, at which any of the processes listens."""
    held = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                held.add(os.readlink(file))
            except OSError:
                continue
    results = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            host, state, inode = parts[1].rpartition(":")[0], parts[3], parts[9]
            loopback = host.endswith("0100007F") or host == "0" * 24 + "01000000"
            if state == "0A" and f"socket:[{inode}]" in held and not loopback:
                results.append(parts[1])
    return results


@pytest.fixture
def serving(folders: dict[str, Path], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, Path]]:
    """A server of two replicas."""
    runtime = "packed_int8" if LIBRARY.is_file() else "torch"
    inputs = [f"{name}={folders[name].name}" for name in ("words", "classes")]
    inputs += ["--runtime", runtime, "--engine", "ray", "--replicas", "2", "--port", "0"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    room = {**kept, "ENCODERY_CACHE": str(tmp_path / "cache"), "RAY_USAGE_STATS_ENABLED": "1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "encodery", "serve", *inputs], stderr=log, env=room, cwd=folders["words"].parent
        )
    try:
        wait(lambda: "http://" in (tmp_path / "log").read_text(), process)
        url = (tmp_path / "log").read_text().split()[0]
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
            assert client.get("/health/live").status_code == 200  # Waits in the socket's queue.
            wait(lambda: client.get("/health/ready").status_code == 200, process)
            yield process, client, tmp_path / "log"
    finally:
        process.terminate()
        process.wait(120)


def wait(until: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_replicas_by_ray(
    serving: Any, folders: dict[str, Path], base: LoadedModel, descendants: Callable[[int], dict[int, bytes]]
) -> None:
    process, client, log = serving

    def named(words: bytes = b"ServeReplica:encodery") -> list[int]:
        return [one for one, command in descendants(process.pid).items() if words in command]

    texts = [" ".join(f"w{(7 * row + place) % 100}" for place in range(1 + row % 20)) for row in range(40)]
    embedder = DenseEncoder.from_loaded(base)
    expected = (embedder.with_runtime(PackedInt8()) if LIBRARY.is_file() else embedder).encode(texts).vectors

    def equal(place: int) -> bool:
        response = client.post("/embed", json={"inputs": texts[place]})
        assert response.status_code == 200, response.text
        results = np.array(response.json()[0], np.float32)
        if LIBRARY.is_file():
            return np.array_equal(results, expected[place])
        return bool(np.abs(results - expected[place]).max() < 1e-6)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(equal, range(len(texts))))
    alone = Predictor.from_model(load_model(folders["classes"])).predict(texts[:2]).answers
    answers = client.post("/predict", json={"inputs": [[text] for text in texts[:2]]}).json()
    for inputs, expected_value in zip(answers, alone, strict=True):
        assert {one["label"]: one["score"] for one in inputs} == pytest.approx(
            expected_value["probabilities"], abs=1e-6
        )
    rejected = client.post("/embed", json={"inputs": "w1 " * 99})
    assert (rejected.status_code, rejected.json()["error"]["code"]) == (400, "input_too_long")
    assert client.get("/nothing").json()["error"]["code"] == "route_not_found"
    assert "encodery_accepted_total" in client.get("/metrics").text
    assert listens_elsewhere([process.pid, *descendants(process.pid)]) == []
    (head,) = named(b"gcs_server")
    assert b"RAY_USAGE_STATS_ENABLED=0" in Path(f"/proc/{head}/environ").read_bytes().split(b"\0")

    first = named()
    assert len(first) == 2
    with ThreadPoolExecutor(4) as pool:
        request = [pool.submit(equal, place % len(texts)) for place in range(80)]
        os.kill(first[0], signal.SIGKILL)
        assert all(one.result() for one in request)  # None is lost, none is wrong.
    wait(lambda: len(set(named()) - {first[0]}) == 2, process)
    assert client.get("/health/ready").status_code == 200

    others = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(180) == 0
    end = time.monotonic() + 30
    while any(Path(f"/proc/{one}").exists() for one in others):
        assert time.monotonic() < end, "Ray outlives the server"
        time.sleep(0.2)
    assert "Traceback" not in log.read_text()
