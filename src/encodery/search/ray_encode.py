"""Encodes the shards of `encode.py` as tasks of Ray Data, on all cores of a machine or on the machines of a cluster.

The folder, its parts and their bytes are those of the local engine: each engine continues what the other began, and
both may work at the same time. Sources, models and the folder must have the same paths on all machines. Each worker has
its own models; a worker that dies is replaced, and its shard continues after its last part.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.base.cluster import connect_ray
from encodery.base.errors import InputError, UserError
from encodery.base.extras import require
from encodery.search.encode import EncodeJob, EncodeResult, EncodeSettings, ShardProgress
from encodery.search.load_retrievers import load_retrievers


@dataclass(frozen=True)
class RayWorkers:
    """`count`: workers at the same time, each on one CPU; None: one per CPU of the cluster. `gpus`: of each worker."""

    count: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InputError(f"workers = {self.count}: must be at least 1.")


def encode_on_ray(
    sources: Sequence[str | Path],
    out: str | Path,
    models: Sequence[str | Path],
    settings: EncodeSettings | None = None,
    shards: int = 1,
    runtime: str | None = None,
    workers: RayWorkers | None = None,
    progress: ShardProgress | None = None,
) -> EncodeResult:
    """Encode all shards that no other process works on.

    Args:
        models: folders of the models.
        runtime: see `load_retrievers`.

    Raises as `encode_documents` does, and `MissingExtra`.
    """
    workers = workers or RayWorkers()
    ray = connect_ray(workers.count or machine.threads())
    folders = [Path(model) for model in models]
    retrievers, paths = load_retrievers(folders, runtime)
    job = EncodeJob(sources, out, retrievers, settings, shards, paths)
    before = job.result(())
    if not before.open:
        return before
    finished = []
    with _quiet():
        data = require("ray.data", "ray")
        count = min(workers.count or max(1, int(ray.cluster_resources().get("CPU", 1))), len(before.open))
        arguments = ([str(source) for source in sources], str(out), folders, settings, shards, runtime)
        tasks = data.from_items([{"shard": n} for n in before.open], override_num_blocks=len(before.open)).map(
            Worker,
            fn_constructor_args=(os.getcwd(), arguments),
            compute=data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=workers.gpus or None,
        )
        for row in tasks.iter_rows():
            if row["error"]:
                raise UserError(f"shard {row['shard']} of {shards}: {row['error']}")
            finished += [row["shard"]] if row["state"] == "ended" else []
            if progress is not None:
                progress(row["shard"], row["passages"])
    return job.result(sorted(finished))


class Worker:
    """Encodes one shard after another. A user's error is returned in the row, because Ray would retry a raised one."""

    def __init__(self, folder: str, arguments: tuple[Any, ...]) -> None:
        sources, out, models, settings, shards, runtime = arguments
        self.error = ""
        with contextlib.suppress(OSError):  # Another machine may not have the folder; paths may be absolute.
            os.chdir(folder)
        try:
            retrievers, paths = load_retrievers(models, runtime)
            self.job = EncodeJob(sources, out, retrievers, settings, shards, paths)
        except UserError as error:
            self.error = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode `shard` of a row; return it with the `state` (see `EncodeJob.work`), the number of `passages` encoded
        now, and the `error`."""
        result: dict[str, Any] = {"shard": int(row["shard"]), "state": "", "passages": 0, "error": self.error}
        if self.error:
            return result

        def count(shard: int, passages: int) -> None:
            result["passages"] = passages

        try:
            result["state"] = self.job.work(result["shard"], count)
            return result
        except UserError as error:
            return result | {"error": str(error)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turn off Ray Data's progress bars and console log, which show its own plan instead of the shards."""
    context = require("ray.data", "ray").DataContext.get_current()
    log = logging.getLogger("ray.data")
    names = ("enable_progress_bars", "print_on_execution_start")
    kept, level = [getattr(context, name) for name in names], log.level
    for name in names:
        setattr(context, name, False)
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, value in zip(names, kept, strict=True):
            setattr(context, name, value)
        log.setLevel(level)
