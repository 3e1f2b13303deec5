"""Runs a pass on an engine: datatrove's local executor, or its executor for Ray, with the same steps.

A task that is done is marked by datatrove in the pass's log folder and not run again. A shared lock is held while a
task runs, so that a rerun waits for tasks that outlived a killed run.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import multiprocess
from datatrove.executor.base import PipelineExecutor
from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger

from encodery.base.errors import InputError
from encodery.base.extras import require
from encodery.corpus.steps.dedup import Pass

Engine = Literal["local", "ray"]
Progress = Callable[[str, int, int], None]
"""Called with (pass, tasks done, tasks in all)."""
POLL_SECONDS = 0.1
LONGEST_WAIT = 120.0
PRELOADED = ["encodery.corpus.passes", "encodery.corpus.steps.dedup._minhash", "encodery.corpus.steps.dedup._exact"]


class _Quiet(PipelineExecutor):  # type: ignore[misc]
    """datatrove logs to its files as ever, but nothing to the console; tasks hold the shared lock."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        logger.enable("datatrove")
        try:
            with contextlib.redirect_stderr(io.StringIO()), _locked(Path(self.lock), fcntl.LOCK_SH):
                return super()._run_for_rank(rank, local_rank, node_rank)
        finally:
            logger.disable("datatrove")


class _Local(_Quiet, LocalPipelineExecutor):  # type: ignore[misc]
    pass


def run_pass(each: Pass, tasks: int, workers: int, logs: Path, engine: Engine, progress: Progress | None) -> None:
    """Run what is not done yet of a pass. What a task raises is raised here.

    Raises `MissingExtra` for Ray where it is not installed.
    """
    count = each.tasks or tasks
    workers = max(1, min(workers, count))
    folder = logs / each.name.replace(" ", "_")
    logger.disable("datatrove")
    executor = _executor(each, count, workers, folder, engine)
    executor.lock = str(logs / "tasks.lock")
    with _watched(each.name, folder / "completions", count, progress), contextlib.redirect_stderr(io.StringIO()):
        executor.run()
    if unfinished := executor.get_incomplete_ranks():
        raise InputError(
            f"{each.name}: {len(unfinished)} of {count} tasks did not finish; see {folder / 'logs'}. "
            "Run the same command again to go on."
        )


def _executor(each: Pass, count: int, workers: int, folder: Path, engine: Engine) -> Any:
    if engine == "local":
        if workers > 1:
            multiprocess.set_forkserver_preload(PRELOADED)
        return _Local(each.steps, tasks=count, workers=workers, logging_dir=str(folder))
    ray = require("ray", extra="ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    from datatrove.executor.ray import RayPipelineExecutor

    class _Ray(_Quiet, RayPipelineExecutor):  # type: ignore[misc]
        pass

    return _Ray(each.steps, tasks=count, workers=workers, logging_dir=str(folder), mem_per_cpu_gb=0.5)


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
def alone(logs: Path) -> Iterator[None]:
    """Held by the one build of a folder. Waits for tasks that outlived a killed build to end.

    Raises `InputError` when another build of the same folder is running.
    """
    logs.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(logs / "build.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            _wait_for_tasks(logs / "tasks.lock")
            yield
    except BlockingIOError as error:
        raise InputError(f"{logs.parent}: another build of this corpus is running.") from error


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
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield
