"""Listens, starts workers that answer, and starts another where one died; nothing heavy is imported here.

The workers share the socket, so a connection waits in its queue while a worker is replaced. On SIGTERM or Ctrl-C every
worker is told to answer what it has accepted, and is given time for it.
"""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from encodery.base.errors import InputError, UserError

USAGE_EXIT = 2  # a worker's exit code where its arguments were wrong: another would fail alike
RESTART_DELAYS = (0.5, 1.0, 2.0, 5.0, 15.0)  # seconds before the n-th restart in a row
STEADY_SECONDS = 60.0  # seconds after which a death is the first one again


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `InputError` for a place that cannot be listened at."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "another program listens there; --port 0 takes a free one" if taken else str(error)
        raise InputError(f"{host}:{port}: cannot be listened at ({why}).") from error
    found.set_inheritable(True)
    return found


class Supervisor:
    """`command` is a worker's command line, to which the socket's number is added; `said` tells of restarts."""

    def __init__(
        self, command: Sequence[str], place: socket.socket, workers: int, grace: float, said: Callable[[str], None]
    ) -> None:
        self.command = [*command, "--fd", str(place.fileno())]
        self.listener, self.grace, self.report = place, grace, said
        self.workers: list[subprocess.Popen[bytes]] = []
        self._count, self._stopping = workers, False

    def run(self) -> None:
        """Until a signal. Raises `UserError` where the workers cannot start."""
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._stop)
        self.workers = [self._start() for _ in range(self._count)]
        begun = [time.monotonic()] * self._count
        deaths = [0] * self._count
        while not self._stopping:
            for number, worker in enumerate(self.workers):
                code = worker.poll()
                if code is None or self._stopping:
                    continue
                if code == USAGE_EXIT:
                    self._end()
                    raise UserError("The server could not start; what is wrong is told above.")
                deaths[number] = 0 if time.monotonic() - begun[number] > STEADY_SECONDS else deaths[number]
                pause = RESTART_DELAYS[min(deaths[number], len(RESTART_DELAYS) - 1)]
                self.report(f"A worker ended (code {code}); another is started in {pause:g} s.")
                self._sleep(pause)
                deaths[number] += 1
                if not self._stopping:
                    self.workers[number], begun[number] = self._start(), time.monotonic()
            self._sleep(0.2)
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, pass_fds=(self.listener.fileno(),))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _end(self) -> None:
        """Let the workers answer what they have, then end those that did not."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        until = time.monotonic() + self.grace + 5
        for worker in self.workers:
            try:
                worker.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.listener.close()


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The same program, as a worker."""
    return [sys.executable, "-m", "encodery", "serve", *arguments]
