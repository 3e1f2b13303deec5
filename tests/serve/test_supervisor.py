"""The supervisor with workers that do nothing: restarts, wrong arguments, signals and addresses."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from encodery.base.errors import InputError, UserError
from encodery.serve import supervisor
from encodery.serve.supervisor import Supervisor, listen, worker_command


@pytest.fixture
def handlers() -> Iterator[None]:
    """The signal handlers of the test process are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def command(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_wrong_arguments_of_a_worker_end_the_server(handlers: None) -> None:
    server = Supervisor(command("raise SystemExit(2)"), listen("127.0.0.1", 0), 2, 0.0, print)
    with pytest.raises(UserError, match="could not start"):
        server.run()
    assert all(worker.poll() is not None for worker in server.workers)
    assert server.listener.fileno() == -1


def test_a_worker_that_ends_is_replaced_until_a_signal(
    handlers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAYS", (0.01, 0.02))
    log, reports = tmp_path / "starts", list[str]()
    code = (
        f"import sys, time; log = {str(log)!r}; file = open(log, 'a'); "
        "file.write(' '.join(sys.argv[1:]) + chr(10)); file.flush(); "
        "starts = len(open(log).readlines()); time.sleep(60) if starts > 2 else sys.exit(7)"
    )
    server = Supervisor(command(code), listen("127.0.0.1", 0), 1, 1.0, reports.append)

    def stop() -> None:
        deadline = time.monotonic() + 20
        while (not log.exists() or len(log.read_text().splitlines()) < 3) and time.monotonic() < deadline:
            time.sleep(0.02)
        signal.raise_signal(signal.SIGTERM)

    number = server.listener.fileno()
    threading.Thread(target=stop, daemon=True).start()
    server.run()
    assert log.read_text().splitlines() == [f"--fd {number}"] * 3
    assert reports == [f"A worker ended (code 7); a new one starts in {delay} s." for delay in ("0.01", "0.02")]
    assert server.workers[0].returncode == -signal.SIGTERM


def test_a_worker_that_ignores_the_signal_is_killed(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_MARGIN", 0)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    server = Supervisor(command(code), listen("127.0.0.1", 0), 1, 0.0, print)
    threading.Timer(1.0, lambda: signal.raise_signal(signal.SIGINT)).start()
    server.run()
    assert server.workers[0].returncode in (-signal.SIGKILL, -signal.SIGTERM)


def test_addresses_that_cannot_be_listened_on() -> None:
    taken = listen("127.0.0.1", 0)
    with pytest.raises(InputError, match="another program uses the port"):
        listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
    with pytest.raises(InputError, match="cannot listen on this address"):
        listen("no.such.host.invalid", 80)
    assert worker_command(["m", "--fd", "3"])[1:] == ["-m", "encodery", "serve", "m", "--fd", "3"]
