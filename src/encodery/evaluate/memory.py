"""Measure the peak memory of the process, or of the GPU if there is one."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


class PeakMemory:
    """Measure the peak since `mark()`, in bytes above the memory in use when this object was made.

    It is None if the kernel has no peak that can be reset. Memory that was freed before is first returned to the
    operating system as far as possible, so that its reuse is not overlooked.
    """

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # Only glibc has it.
            ctypes.CDLL(None).malloc_trim(0)
        self._base = self._in_use()
        self.mark()

    def mark(self) -> None:
        """Reset the peak."""
        import torch

        self._reset = False
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._reset = True
            return
        with contextlib.suppress(OSError):
            REFS.write_text(RESET_PEAK)
            self._reset = True

    def since_start(self) -> int | None:
        """Return the peak since the last `mark()`, above the memory in use at the start."""
        import torch

        if torch.cuda.is_available():
            return max(0, int(torch.cuda.max_memory_allocated()) - (self._base or 0))
        peak = _status("VmHWM")
        return max(0, peak - self._base) if self._reset and peak and self._base is not None else None

    def _in_use(self) -> int | None:
        import torch

        return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else _status("VmRSS")


def _status(name: str) -> int | None:
    """Return a line of the status of the process, in bytes."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
