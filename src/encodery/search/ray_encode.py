"""Shards of `encode.py` as tasks of Ray Data: on all cores of a machine, or on the machines of a cluster.

The folder, its parts and their bytes are those of the local engine, so either goes on with what the other began, and
both may work at once. Sources, models and the folder must lie at the same place on all machines. Each worker has models
of its own; one that dies is replaced, and its shard goes on behind the last part.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from encodery.base import machine
from encodery.base.cluster import connect_ray
from encodery.base.errors import InputError, UserError
from encodery.base.extras import require
from encodery.search.encode import EncodeJob, EncodeResult, EncodeSettings, ShardProgress
from encodery.search.retrievers import load_retrievers


def encode_on_ray(
    sources: Sequence[str | Path],
    out: str | Path,
    models: Sequence[str | Path],
    settings: EncodeSettings | None = None,
    shards: int = 1,
    runtime: str | None = None,
    workers: int | None = None,
    gpus: float = 0.0,
    progress: ShardProgress | None = None,
) -> EncodeResult:
    """Bring all shards to their end that nobody else works on. `models`: where they lie; `runtime`: see `sides.loaded`;
    `workers` at a time, of a CPU each (None: one for each CPU there is), with `gpus` of a GPU each.

    Raises as `encode` does, and `MissingExtra`.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers = {workers}: must be positive.")
    ray = connect_ray(workers or machine.threads())
    paths = [Path(model) for model in models]
    sides, where = load_retrievers(paths, runtime)
    job = EncodeJob(sources, out, sides, settings, shards, where)
    before = job.result(())
    if not before.open:
        return before
    ended = []
    with _quiet():
        data = require("ray.data", "ray")
        count = min(workers or max(1, int(ray.cluster_resources().get("CPU", 1))), len(before.open))
        given = ([str(source) for source in sources], str(out), paths, settings, shards, runtime)
        work = data.from_items([{"shard": n} for n in before.open], override_num_blocks=len(before.open)).map(
            Worker,
            fn_constructor_args=(os.getcwd(), given),
            compute=data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        for row in work.iter_rows():
            if row["wrong"]:
                raise UserError(f"shard {row['shard']} of {shards}: {row['wrong']}")
            ended += [row["shard"]] if row["state"] == "ended" else []
            if progress is not None:
                progress(row["shard"], row["passages"])
    return job.result(sorted(ended))


class Worker:
    """Works on one shard after another. A fault of the user's is told in the row: raised, Ray would try it again."""

    def __init__(self, folder: str, given: tuple[Any, ...]) -> None:
        sources, out, models, settings, shards, runtime = given
        self.wrong = ""
        with contextlib.suppress(OSError):  # Another machine may not have it; paths may be absolute.
            os.chdir(folder)
        try:
            sides, where = load_retrievers(models, runtime)
            self.job = EncodeJob(sources, out, sides, settings, shards, where)
        except UserError as error:
            self.wrong = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """`shard` → with its `state` (see `Job.work`), the `passages` it was given now, and what is `wrong`."""
        told: dict[str, Any] = {"shard": int(row["shard"]), "state": "", "passages": 0, "wrong": self.wrong}
        if self.wrong:
            return told

        def counted(shard: int, passages: int) -> None:
            told["passages"] = passages

        try:
            told["state"] = self.job.work(told["shard"], counted)
            return told
        except UserError as error:
            return told | {"wrong": str(error)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data without its bars and its log on the console, which are of its own plan and not of ours."""
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
