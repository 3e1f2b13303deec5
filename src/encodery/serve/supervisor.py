"""The supervisor listens on the socket, starts the workers that answer, and replaces those that end.

It imports nothing heavy. The workers share the socket, so a connection waits in its queue while a worker is replaced.
On SIGTERM or Ctrl-C every worker answers the requests that it has accepted, and is given time for that.
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

USAGE_EXIT = 2  # Exit code of a worker whose arguments are wrong: another one would fail alike.
RESTART_DELAYS = (0.5, 1.0, 2.0, 5.0, 15.0)  # Seconds before the n-th restart in a row.
STEADY_SECONDS = 60.0  # After which the end of a worker counts as the first one again.
POLL_SECONDS = 0.2
GRACE_MARGIN = 5  # Seconds beyond the workers' own grace before they are killed.


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `InputError` for an address that cannot be listened on."""
    listener: socket.socket | None = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another program uses the port; --port 0 takes a free one" if in_use else str(error)
        raise InputError(f"{host}:{port}: cannot listen on this address ({reason}).") from error
    listener.set_inheritable(True)
    return listener


class Supervisor:
    """`command`: a worker's command line, to which the number of the socket is added; `grace`: seconds that a worker
    may take to stop; `report`: called with a sentence about each restart."""

    def __init__(
        self, command: Sequence[str], listener: socket.socket, workers: int, grace: float, report: Callable[[str], None]
    ) -> None:
        self.command = [*command, "--fd", str(listener.fileno())]
        self.listener, self.grace, self.report = listener, grace, report
        self.workers: list[subprocess.Popen[bytes]] = []
        self._count, self._stopping = workers, False

    def run(self) -> None:
        """Run the workers until a signal. Raises `UserError` if they cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.workers = [self._start() for _ in range(self._count)]
        started = [time.monotonic()] * self._count
        failures = [0] * self._count
        while not self._stopping:
            for index, worker in enumerate(self.workers):
                code = worker.poll()
                if code is None or self._stopping:
                    continue
                if code == USAGE_EXIT:
                    self._end()
                    raise UserError("The server could not start; the reason is printed above.")
                failures[index] = 0 if time.monotonic() - started[index] > STEADY_SECONDS else failures[index]
                delay = RESTART_DELAYS[min(failures[index], len(RESTART_DELAYS) - 1)]
                self.report(f"A worker ended (code {code}); a new one starts in {delay:g} s.")
                self._sleep(delay)
                failures[index] += 1
                if not self._stopping:
                    self.workers[index], started[index] = self._start(), time.monotonic()
            self._sleep(POLL_SECONDS)
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, pass_fds=(self.listener.fileno(),))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _end(self) -> None:
        """Let the workers answer what they have accepted, then kill those that do not end."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
        deadline = time.monotonic() + self.grace + GRACE_MARGIN
        for worker in self.workers:
            try:
                worker.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.listener.close()


def worker_command(arguments: Sequence[str]) -> list[str]:
    """The command line of the same program as a worker."""
    return [sys.executable, "-m", "encodery", "serve", *arguments]
