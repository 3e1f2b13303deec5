"""encodery serve: models and an index behind HTTP."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

ENGINES = ("local", "ray")


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Runs, model folders or Hugging Face folders; name=folder names one."
        ),
    ] = None,
    index: Annotated[Path | None, typer.Option(help="An index folder, for /search.")] = None,
    rerank: Annotated[Path | None, typer.Option(help="What orders the index's first passages anew.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; anything but this machine's own lets others in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8080,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that open the server, one a line, and those in ENCODERY_API_KEYS.")
    ] = None,
    truncate: Annotated[
        str | None, typer.Option(help="Text that is too long, unless a request says: error, right, left or chunk.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="What runs embedding models: packed_int8, … [default: the model, in float32].")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, each with the models of its own.", min=1, max=256)] = 1,
    threads: Annotated[int | None, typer.Option(help="Of each worker's mathematics [default: all, shared].")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens computed at once [default: as measured on this machine].", min=1)
    ] = None,
    queue_tokens: Annotated[int, typer.Option(help="Tokens that may wait in a worker.", min=1)] = 1 << 20,
    queue_seconds: Annotated[float, typer.Option(help="That a request may wait; longer is refused.", min=0.1)] = 2.0,
    body_megabytes: Annotated[int, typer.Option(help="Of a request's body at most.", min=1)] = 16,
    drain_seconds: Annotated[int, typer.Option(help="For what was accepted, when stopped.", min=0)] = 30,
    engine: Annotated[
        str, typer.Option(help="local: the workers run the models; ray: replicas on a cluster do (RAY_ADDRESS).")
    ] = "local",
    replicas: Annotated[int, typer.Option(help="With --engine ray: so many, --threads (1) CPUs each.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="With --engine ray: GPUs of each replica; a part will do.", min=0)] = 0.0,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    place: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Serve until SIGTERM or Ctrl-C: OpenAI, Cohere, Jina and TEI routes, and our own; a page shows them all.

    What a model can do is found in its folder: vectors, reranking, classes, spans, masks. A text that is too long is
    refused unless the request or --truncate says otherwise.

    --engine ray joins the cluster that RAY_ADDRESS names (auto: this machine's), else starts Ray on this machine; model
    folders must be at the same place on all of its machines.
    """
    from encodery.base import machine

    _check(bool(models), index, workers, engine, replicas, gpus)
    keys = keys_of(api_key_file)
    cores = threads or (1 if engine == "ray" else max(1, machine.threads() // workers))
    opening: dict[str, Any] = {
        "models": tuple(models or ()),
        "index": _text(index),
        "rerank": _text(rerank),
        "truncate": truncate,
    }
    opening |= {"runtime": runtime, "threads": cores}
    limits = {"batch_tokens": batch_tokens, "queue_tokens": queue_tokens, "queue_seconds": queue_seconds}
    if fd is not None:
        http = {"keys": keys, "body_bytes": body_megabytes << 20, "drain_seconds": drain_seconds}
        _work(opening, {**limits, "cores": cores}, http, fd, place)
        return
    given: dict[str, Any] = {"--index": index, "--rerank": rerank, "--api-key-file": api_key_file}
    given |= {"--truncate": truncate}
    given |= {"--threads": threads, "--batch-tokens": batch_tokens, "--runtime": runtime, "--workers": workers}
    given |= {"--queue-tokens": queue_tokens, "--queue-seconds": queue_seconds, "--engine": engine}
    given |= {"--body-megabytes": body_megabytes, "--drain-seconds": drain_seconds}
    wanted = {"count": replicas, "cpus": cores, "gpus": gpus, "drain_seconds": drain_seconds}
    arguments = [*(models or ()), *(word for pair in given.items() if pair[1] is not None for word in map(str, pair))]
    _supervise(arguments, host, port, workers, bool(keys), drain_seconds, opening, {**limits, "cores": cores},
               wanted if engine == "ray" else None)  # fmt: skip


def _supervise(
    arguments: list[str],
    host: str,
    port: int,
    workers: int,
    closed: bool,
    grace: float,
    opening: dict[str, Any],
    limits: dict[str, Any],
    replicas: dict[str, Any] | None,
) -> None:
    """Listen and keep workers at it, before `replicas` (see `cluster.Replicas`) where there are to be some."""
    from encodery.cli._screen import screen
    from encodery.serve.supervisor import Supervisor, listen, worker_command

    console = screen(stderr=True, soft_wrap=True)
    socket = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    console.print(f"http://{shown}:{socket.getsockname()[1]}/  (Ctrl-C ends; ready when /health/ready says so)")
    if not closed and host not in ("127.0.0.1", "::1", "localhost"):
        console.print(
            "Anyone who reaches this address may use it: no key is asked for (--api-key-file).", style="yellow"
        )
    with contextlib.ExitStack() as held:
        if replicas is not None:
            from encodery.serve.cluster import Replicas, deployed

            found = held.enter_context(deployed(opening, limits, Replicas(**replicas), console.print))
            arguments = [*arguments, "--place", found.written()]
        Supervisor(worker_command(arguments), socket, workers, grace, console.print).run()


def _check(models: bool, index: Path | None, workers: int, engine: str, replicas: int, gpus: float) -> None:
    """Raises `UserError` kinds for what cannot be served."""
    from encodery.base.errors import InputError, nearest
    from encodery.base.extras import require

    for name in ("fastapi", "uvicorn", "orjson", "prometheus_client"):
        require(name, "serve")
    if not models and index is None:
        raise InputError("There is nothing to serve: name a model, or an --index.")
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: is {' or '.join(ENGINES)}.{nearest(engine, ENGINES)}")
    if engine == "local" and (replicas > 1 or gpus):
        raise InputError("--replicas, --gpus: are of --engine ray; on one machine there are --workers.")
    if engine == "ray":
        from encodery.base.cluster import module

        module()
    processes, option = (workers, "--workers") if engine == "local" else (replicas, "--replicas")
    if index is not None and processes > 1:
        raise InputError(f"{option} {processes}: an index is open to one process only. Serve it by one of its own.")


def _work(opening: dict[str, Any], limits: dict[str, Any], http: dict[str, Any], fd: int, place: str) -> None:
    """Be a worker, or a front of replicas where a `place` of them is given."""
    from encodery.serve.engine import EngineSettings
    from encodery.serve.http import HttpSettings
    from encodery.serve.models import Opening
    from encodery.serve.worker import front, work

    if place:
        front(place, EngineSettings(**limits), HttpSettings(**http), fd)
    else:
        said = partial(print, file=sys.stderr, flush=True)
        work(Opening(**opening), EngineSettings(**limits), HttpSettings(**http), fd, said)


def keys_of(file: Path | None) -> tuple[str, ...]:
    """Of the file, one a line without empty lines and those that begin with #, and of the environment."""
    from encodery.base import machine
    from encodery.base.errors import InputError

    lines = [] if file is None else [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if file is not None and not keys:
        raise InputError(f"{file}: holds no key.")
    given = machine.api_keys()
    if given is not None and not given:
        raise InputError("ENCODERY_API_KEYS: holds no key. Unset it to serve without keys.")
    keys += given or []
    if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise InputError("A key is of printable ASCII characters without blanks.")
    return tuple(keys)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
