"""Batches prepared ahead in a thread, in the loader's order and with the loader's state.

The state is that of the batch returned last, never of one prepared. If a call asks for other sizes than were prepared,
the prepared batches are discarded and the loader is set back: the batches are always those of the loader alone.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from encodery.tokens.loader import PackedBatch, PackedLoader


class Prefetch:
    """A `PackedLoader` whose next `depth` batches are made by a thread. Use it as a context manager, or `close` it.

    An exception in the thread is raised by the `next` that would have returned the batch.
    """

    def __init__(self, loader: PackedLoader, depth: int = 2) -> None:
        self.loader = loader
        self.depth = depth
        self._ready: deque[tuple[tuple[int, int], Future[tuple[PackedBatch, Any, float]]]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._at = loader.snapshot
        self._progress = loader.progress

    def next(self, batch_tokens: int | None = None, max_length: int | None = None) -> PackedBatch:
        """See `PackedLoader.next`."""
        sizes = self.loader.resolve_limits(batch_tokens, max_length)
        if self._ready and self._ready[0][0] != sizes:
            self._rewind()
        self._prepare(sizes)
        try:
            batch, self._at, self._progress = self._ready.popleft()[1].result()
        except BaseException:
            self._rewind()
            raise
        self._prepare(sizes)
        return batch

    def _prepare(self, sizes: tuple[int, int]) -> None:
        while len(self._ready) < max(self.depth, 1):
            self._ready.append((sizes, self._pool.submit(self._make, *sizes)))

    def _make(self, budget: int, longest: int) -> tuple[PackedBatch, Any, float]:
        batch = self.loader.next(budget, longest)
        return batch, self.loader.snapshot, self.loader.progress

    def _rewind(self) -> None:
        for _, future in self._ready:
            if not future.cancel():
                future.exception()
        self._ready.clear()
        self.loader.load_state(self.state())

    def state(self) -> dict[str, Any]:
        """Return the state of the loader after the batch returned last."""
        return self.loader.state_of(self._at)

    def load_state(self, state: dict[str, Any]) -> None:
        """See `PackedLoader.load_state`."""
        self._rewind()
        self.loader.load_state(state)
        self._at, self._progress = self.loader.snapshot, self.loader.progress

    @property
    def epoch(self) -> int:
        """The number of epochs drawn for the batch returned last."""
        return int(self._at.epoch)

    @property
    def progress(self) -> float:
        """The number of epochs drawn for the batch returned last, with the fraction of the current one."""
        return self._progress

    def close(self) -> None:
        """End the thread; the loader is set to the state after the batch returned last."""
        self._rewind()
        self._pool.shutdown()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
