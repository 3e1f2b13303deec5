"""Runs passes on an engine: datatrove's local executor, or its executor for Ray, with the same steps.

A task that is done is marked by datatrove in the pass's log folder and not run again. A shared lock is held while a
task runs, so that a rerun waits for tasks that outlive a killed run by a moment. Locally the tasks run in one pool
for all passes that notices when a process dies (datatrove's would wait for it for ever) and whose processes end
with their parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger

from encodery.base.cluster import connect_ray
from encodery.base.errors import InputError, UserError
from encodery.corpus.steps.dedup import Pass

EngineName = Literal["local", "ray"]
Progress = Callable[[str, int, int], None]
"""Called with (pass, tasks done, tasks in all)."""
POLL_SECONDS = 0.1
PARENT_SECONDS = 0.5
LONGEST_WAIT = 120.0
RAY_MEMORY = 0.5  # GB reserved a task.
PRELOADED = ["encodery.corpus.passes", "encodery.corpus.steps.dedup._minhash", "encodery.corpus.steps.dedup._exact"]


class _Quiet(PipelineExecutor):  # type: ignore[misc]
    """datatrove logs to its files as ever, but nothing to the console; tasks hold the shared lock."""

    lock: str

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        logger.enable("datatrove")
        try:
            with contextlib.redirect_stderr(io.StringIO()), _locked(Path(self.lock), fcntl.LOCK_SH):
                return super()._run_for_rank(rank, local_rank, node_rank)
        finally:
            logger.disable("datatrove")


class _Local(_Quiet, LocalPipelineExecutor):  # type: ignore[misc]
    pass


class PassRunner:
    """Runs the passes of one build, one after the other. `tasks`: tasks of a pass over documents.

    Raises `MissingExtra` for Ray where it is not installed. What a task raises is raised by `run`.
    """

    def __init__(self, engine: EngineName, workers: int, tasks: int, logs: Path, progress: Progress | None) -> None:
        self.engine = engine
        self.workers = min(workers, tasks)
        self.tasks = tasks
        self.logs = logs
        self.progress = progress
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> PassRunner:
        logger.disable("datatrove")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.pool:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def run(self, each: Pass) -> None:
        """Run what is not done yet of a pass."""
        count = each.tasks or self.tasks
        folder = self.logs / each.name.replace(" ", "_")
        with _watched(each.name, folder / "completions", count, self.progress):
            executor = self._local(each, count, folder) if self.engine == "local" else self._ray(each, count, folder)
        if unfinished := executor.get_incomplete_ranks():
            raise UserError(
                f"{each.name}: {len(unfinished)} of {count} tasks did not finish; see {folder / 'logs'}. "
                "The same command goes on where this stopped."
            )

    def _local(self, each: Pass, count: int, folder: Path) -> PipelineExecutor:
        executor = _Local(each.steps, tasks=count, workers=1, logging_dir=str(folder))
        executor.lock = str(self.logs / "tasks.lock")
        ranks = executor.get_incomplete_ranks()
        if self.workers == 1 or len(ranks) < 2:
            for rank in ranks:
                executor.pipeline = deepcopy(each.steps)
                executor._run_for_rank(rank)
            return executor
        self.pool = self.pool or _new_pool(self.workers)
        try:
            for future in as_completed([self.pool.submit(_task, executor, rank) for rank in ranks]):
                future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process died, most likely for want of memory. "
                "Use fewer --workers; the same command goes on where this stopped."
            ) from error
        return executor

    def _ray(self, each: Pass, count: int, folder: Path) -> PipelineExecutor:
        connect_ray(self.workers)
        from datatrove.executor.ray import RayPipelineExecutor

        class _Ray(_Quiet, RayPipelineExecutor):  # type: ignore[misc]
            pass

        workers = max(1, min(self.workers, count))
        executor = _Ray(each.steps, tasks=count, workers=workers, logging_dir=str(folder), mem_per_cpu_gb=RAY_MEMORY)
        executor.lock = str(self.logs / "tasks.lock")
        executor.run()
        return executor


def _new_pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _task(executor: _Local, rank: int) -> None:
    executor._run_for_rank(rank)


def _end_with_parent() -> None:
    """A killed build leaves no process behind: when the parent is gone, so is this."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _watched(name: str, completions: Path, count: int, progress: Progress | None) -> Iterator[None]:
    if progress is None:
        yield
        return
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            progress(name, len(os.listdir(completions)) if completions.is_dir() else 0, count)
            stop.wait(POLL_SECONDS)

    watcher = threading.Thread(target=poll, daemon=True)
    watcher.start()
    try:
        yield
        progress(name, count, count)
    finally:
        stop.set()
        watcher.join()


@contextlib.contextmanager
def exclusive_build(logs: Path) -> Iterator[None]:
    """Held by the one build of a folder. Waits for tasks that outlived a killed build to end.

    Raises `InputError` when another build of the same folder is running.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_locked(logs / "build.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            _wait_for_tasks(logs / "tasks.lock")
        except BlockingIOError as error:
            raise InputError(f"{logs.parent}: another build of this corpus is running.") from error
        yield


def _wait_for_tasks(path: Path) -> None:
    end = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    # A record lock: it belongs to this process alone, is not inherited, and goes with it.
    with path.open("a+") as file:
        fcntl.lockf(file, how)
        yield
