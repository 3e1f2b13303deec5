"""The command as it is used: start, ask, kill a worker in the middle of it, stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from encodery.base.errors import InputError
from encodery.cli.serve import command as serve
from encodery.cli.serve import keys_of

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return int(place.getsockname()[1])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "encodery", "serve", *arguments]


@pytest.fixture
def serving(folders: dict[str, Path], tmp_path: Path) -> Iterator[Any]:
    keys = tmp_path / "keys"
    keys.write_text("# ours\na-key\n")
    port = free_port()
    inputs = [f"words={folders['words']}", "--port", str(port), "--api-key-file", str(keys)]
    with (tmp_path / "log").open("wb") as log:
        room = {**os.environ, "ENCODERY_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen(command(*inputs), stderr=log, env=room)
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer a-key"}, timeout=180, trust_env=False
        )
        with client:
            yield process, client
        workers = children(process.pid) if process.poll() is None else []
        process.kill()
        for worker in workers:  # A supervisor that is killed cannot end them.
            os.kill(worker, signal.SIGKILL)
        process.wait(10)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ready(client: httpx.Client) -> None:
    end = time.monotonic() + 180  # Of which a quiet machine takes some seconds.
    while time.monotonic() < end:
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("not ready")


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_sigterm_ends_all(serving: Any) -> None:
    process, client = serving
    ready(client)
    assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
    (worker,) = children(process.pid)
    with ThreadPoolExecutor(8) as pool:
        many = {"inputs": ["w1 w2 w3"] * 2000}
        request = [pool.submit(client.post, "/embed", json=many) for _ in range(8)]
        time.sleep(0.05)
        os.kill(worker, signal.SIGKILL)
        for one in request:  # Answered, or the connection ends: none hangs.
            error = one.exception(120)
            assert isinstance(error, httpx.ReadError | httpx.RemoteProtocolError) or one.result().status_code == 200
    # The socket outlives the worker: who connects now waits for the next one.
    ready(client)
    assert children(process.pid) != [worker]
    assert client.post("/embed", json={"inputs": "w1"}).status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0


@pytest.mark.slow
def test_workers_end_with_a_supervisor_that_is_killed(serving: Any) -> None:
    process, client = serving
    ready(client)
    (worker,) = children(process.pid)
    process.kill()
    process.wait(10)
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < end, "the worker lives on"
        time.sleep(0.2)


def test_keys_of_a_file_and_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\na-key\n\n", encoding="utf-8")
    assert keys_of(None) == ()
    assert keys_of(file) == ("a-key",)
    monkeypatch.setenv("ENCODERY_API_KEYS", "b-key, c-key,")
    assert keys_of(file) == ("a-key", "b-key", "c-key")
    monkeypatch.setenv("ENCODERY_API_KEYS", "two words")
    with pytest.raises(InputError, match="without spaces"):
        keys_of(None)
    # Set but empty is a mistake: it must not open the server to all.
    monkeypatch.setenv("ENCODERY_API_KEYS", " ")
    with pytest.raises(InputError, match="contains no key"):
        keys_of(None)


def test_what_cannot_be_served_is_reported(tmp_path: Path) -> None:
    nothing = subprocess.run(command(), capture_output=True, text=True, timeout=240, check=False)
    assert nothing.returncode == 2
    assert "nothing to serve" in nothing.stderr
    with pytest.raises(InputError, match="one process only"):
        serve(index=tmp_path, workers=2)
    missing = subprocess.run(
        command(str(tmp_path), "--port", "0"), capture_output=True, text=True, timeout=240, check=False
    )
    assert missing.returncode == 2
    assert "holds no model" in missing.stderr
