"""The most memory a piece of work held: of the process, or of the accelerator where one computes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

STATUS, REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


class PeakMemory:
    """`since_start()` is the highest mark since `mark()`, above what was held when this was made, in bytes.

    None where the kernel keeps no mark that can be reset. Memory an earlier piece of work gave back is handed to the
    system first, as far as the allocator can, so that it is not mistaken for free room.
    """

    def __init__(self) -> None:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)
        self._base = self._held()
        self.mark()

    def mark(self) -> None:
        """Begin a new highest mark."""
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
        """The highest mark since the last `mark()`, above what was held at the start."""
        import torch

        if torch.cuda.is_available():
            return max(0, int(torch.cuda.max_memory_allocated()) - (self._base or 0))
        highest = _status("VmHWM")
        return max(0, highest - self._base) if self._reset and highest and self._base is not None else None

    def _held(self) -> int | None:
        import torch

        return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else _status("VmRSS")


def _status(name: str) -> int | None:
    """A line of the process's status, in bytes."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
