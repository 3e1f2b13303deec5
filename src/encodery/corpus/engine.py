"""Run passes on an engine: datatrove's local executor, or its executor for Ray, with the same steps.

datatrove marks finished tasks in the log folder of a pass, and they are not run again. Each running task holds a
shared lock, so that a rerun waits for tasks that outlive a killed run for a moment. Local tasks run in one process
pool for all passes. The pool notices when a process dies (datatrove's own would wait for it forever), and its processes
end with their parent.
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
"""Called with (name of the pass, number of finished tasks, number of tasks)."""
POLL_SECONDS = 0.1
PARENT_SECONDS = 0.5
MAX_WAIT_SECONDS = 120.0
RAY_MEMORY = 0.5  # GB reserved per task.
PRELOADED = ["encodery.corpus.passes", "encodery.corpus.steps.dedup._minhash", "encodery.corpus.steps.dedup._exact"]


class _Quiet(PipelineExecutor):  # type: ignore[misc]
    """An executor that logs to datatrove's files but not to the console, and whose tasks hold the shared lock."""

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
    """Run the passes of one build, one after the other.

    Args:
        engine: "local" or "ray".
        workers: the number of processes; more than `tasks` are not started.
        tasks: the number of tasks of a pass over documents.
        logs: the folder of the logs and of the marks of finished tasks.
        progress: a function to call while tasks run.

    Raises `MissingExtra` if Ray is not installed. `run` raises the exceptions of the tasks.
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

    def run(self, one: Pass) -> None:
        """Run the unfinished tasks of a pass."""
        count = one.tasks or self.tasks
        folder = self.logs / one.name.replace(" ", "_")
        with _reporting(one.name, folder / "completions", count, self.progress):
            executor = self._local(one, count, folder) if self.engine == "local" else self._ray(one, count, folder)
        if unfinished := executor.get_incomplete_ranks():
            raise UserError(
                f"{one.name}: {len(unfinished)} of {count} tasks did not finish; see {folder / 'logs'}. "
                "Run the same command again to resume."
            )

    def _local(self, one: Pass, count: int, folder: Path) -> PipelineExecutor:
        executor = _Local(one.steps, tasks=count, workers=1, logging_dir=str(folder))
        executor.lock = str(self.logs / "tasks.lock")
        ranks = executor.get_incomplete_ranks()
        if self.workers == 1 or len(ranks) < 2:
            for rank in ranks:
                executor.pipeline = deepcopy(one.steps)
                executor._run_for_rank(rank)
            return executor
        self.pool = self.pool or _new_pool(self.workers)
        try:
            for future in as_completed([self.pool.submit(_task, executor, rank) for rank in ranks]):
                future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "A worker process died, most likely because memory ran out. "
                "Run the same command again with fewer --workers to resume."
            ) from error
        return executor

    def _ray(self, one: Pass, count: int, folder: Path) -> PipelineExecutor:
        connect_ray(self.workers)
        from datatrove.executor.ray import RayPipelineExecutor

        class _Ray(_Quiet, RayPipelineExecutor):  # type: ignore[misc]
            pass

        workers = max(1, min(self.workers, count))
        executor = _Ray(one.steps, tasks=count, workers=workers, logging_dir=str(folder), mem_per_cpu_gb=RAY_MEMORY)
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
    """Watch the parent process and exit when it is gone, so that a killed build leaves no process behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _reporting(name: str, completions: Path, count: int, progress: Progress | None) -> Iterator[None]:
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
    """Hold the lock of a build. It first waits until tasks that outlived a killed build have ended.

    Raises `InputError` if another build of the same folder is running.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(logs / "build.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            _wait_for_tasks(logs / "tasks.lock")
        except BlockingIOError as error:
            raise InputError(f"{logs.parent}: another build of this corpus is running.") from error
        yield


def _wait_for_tasks(path: Path) -> None:
    end = time.monotonic() + MAX_WAIT_SECONDS
    while True:
        try:
            with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _locked(path: Path, operation: int) -> Iterator[None]:
    # A record lock belongs to this process only, is not inherited, and is released when the process ends.
    with path.open("a+") as file:
        fcntl.lockf(file, operation)
        yield
