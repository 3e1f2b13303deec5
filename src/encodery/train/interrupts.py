"""SIGINT and SIGTERM ask a run to finish its step, save and end; a second signal stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interrupts:
    """`signal_name`: the signal that was received; empty if none was."""

    signal_name: str = ""

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; raise `KeyboardInterrupt` at the second."""
        if self.signal_name:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name


@contextlib.contextmanager
def catch_signals() -> Iterator[Interrupts]:
    """Catch both signals inside the block. In threads other than the main one nothing is caught."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts.receive) for number in SIGNALS}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
