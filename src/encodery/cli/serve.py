"""encodery serve: serve models and an index over HTTP."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import socket

    from rich.console import Console

ENGINES = ("local", "ray")


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Run folders, model folders or Hugging Face folders. A model has the name of its folder; "
            "NAME=FOLDER sets another name.",
        ),
    ] = None,
    index: Annotated[Path | None, typer.Option(help="An index folder, which is served at /search.")] = None,
    rerank: Annotated[Path | None, typer.Option(help="The reranker of the top results of the index.")] = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. With the default, only this machine can connect; 0.0.0.0 lets "
            "other machines connect."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 chooses a free port.", min=0, max=65535)] = 8080,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="A file of API keys, one per line; the keys in ENCODERY_API_KEYS are accepted too."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which clients may reach the server, in addition to localhost, IP addresses and the name of "
            "this machine; may be given several times [default: without API keys on a local address no further name, "
            "otherwise any]."
        ),
    ] = None,
    accept_token_ids: Annotated[
        bool,
        typer.Option(
            "--accept-token-ids",
            help="Accept token ids of the model's own tokenizer in place of texts. By default they are refused, since "
            "ids of another tokenizer give wrong embeddings.",
        ),
    ] = False,
    truncate: Annotated[
        str | None,
        typer.Option(
            help="What happens to a text longer than the model's maximum if the request does not set it: "
            "error, right, left or chunk [default: error]."
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="The runtime of embedding models, such as packed_int8 [default: fp32, on a CPU in the packed engine]."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="The number of worker processes, each with its own copy of the models.", min=1, max=256)
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            help="The number of CPU threads per worker [default: all CPUs divided among the workers; 1 with "
            "--engine ray]."
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="The maximum size of a batch, in tokens [default: the fastest size measured on this machine].", min=1
        ),
    ] = None,
    queue_tokens: Annotated[
        int,
        typer.Option(
            help="The maximum queue of a worker, in tokens; further requests are refused with status 429.", min=1
        ),
    ] = 1 << 20,
    queue_seconds: Annotated[
        float,
        typer.Option(
            help="The maximum waiting time of a request in the queue, in seconds; requests that are expected "
            "to wait longer are refused with status 429.",
            min=0.1,
        ),
    ] = 2.0,
    body_megabytes: Annotated[
        int,
        typer.Option(
            help="The maximum size of a request body, in MiB; larger requests are refused with status 413.", min=1
        ),
    ] = 16,
    drain_seconds: Annotated[
        int, typer.Option(help="The maximum time for completing accepted requests at shutdown, in seconds.", min=0)
    ] = 30,
    engine: Annotated[
        str,
        typer.Option(
            help="Where models run: local (in the worker processes) or ray (in replicas on the cluster that "
            "RAY_ADDRESS names)."
        ),
    ] = "local",
    replicas: Annotated[
        int, typer.Option(help="With --engine ray: the number of replicas, each with --threads CPUs.", min=1)
    ] = 1,
    gpus: Annotated[
        float, typer.Option(help="With --engine ray: the number of GPUs per replica, which may be a fraction.", min=0)
    ] = 0.0,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    place: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Serve models over HTTP until SIGTERM or Ctrl-C.

    The server has routes compatible with OpenAI, Cohere, Jina and TEI (text-embeddings-inference), and further routes;
    the page at / documents them. What a model can do (embedding, reranking, classification, tagging, span extraction,
    mask filling) is read from its folder. A text that is too long is an error unless the request or --truncate sets
    another policy.

    --engine ray uses the Ray cluster that RAY_ADDRESS names (auto: the one that runs on this machine), or starts Ray on
    this machine if RAY_ADDRESS is not set. Model folders must have the same path on all machines.
    """
    from encodery.base import machine
    from encodery.cli._screen import screen

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
        http |= {"hosts": hosts_of(host, allow_host or (), bool(keys)), "token_ids": accept_token_ids}
        _work(opening, {**limits, "cores": cores}, http, fd, place)
        return
    options: dict[str, Any] = {"--index": index, "--rerank": rerank, "--api-key-file": api_key_file}
    options |= {"--truncate": truncate, "--host": host}
    options |= {"--threads": threads, "--batch-tokens": batch_tokens, "--runtime": runtime, "--workers": workers}
    options |= {"--queue-tokens": queue_tokens, "--queue-seconds": queue_seconds, "--engine": engine}
    options |= {"--body-megabytes": body_megabytes, "--drain-seconds": drain_seconds}
    cluster = {"count": replicas, "cpus": cores, "gpus": gpus, "drain_seconds": drain_seconds}
    arguments = [*(models or ()), *(word for pair in options.items() if pair[1] is not None for word in map(str, pair))]
    arguments += [word for name in allow_host or () for word in ("--allow-host", name)]
    arguments += ["--accept-token-ids"] * accept_token_ids
    console = screen(stderr=True, soft_wrap=True)
    listener = _listen(host, port, bool(keys), console)
    replica_settings = cluster if engine == "ray" else None
    _supervise(
        listener, arguments, workers, drain_seconds, opening, {**limits, "cores": cores}, replica_settings, console
    )


def _listen(host: str, port: int, has_keys: bool, console: Console) -> socket.socket:
    """Open the listening socket and print its address, with a warning if anyone may use it."""
    from encodery.serve.supervisor import listen

    listener = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    console.print(
        f"http://{shown}:{listener.getsockname()[1]}/  (Ctrl-C stops; /health/ready answers 200 when the models are "
        "loaded)"
    )
    if not has_keys and host not in ("127.0.0.1", "::1", "localhost"):
        console.print(
            "Anyone who can reach this address can use the server: no API key is required (--api-key-file).",
            style="yellow",
        )
    return listener


def _supervise(
    listener: socket.socket,
    arguments: list[str],
    workers: int,
    grace: float,
    opening: dict[str, Any],
    limits: dict[str, Any],
    replicas: dict[str, Any] | None,
    console: Console,
) -> None:
    """Keep the workers running until the server stops.

    Args:
        arguments: the command line of a worker.
        grace: the time for finishing accepted requests at shutdown, in seconds.
        replicas: the fields of `serve.cluster.ReplicaSettings`; None without Ray.
    """
    from encodery.serve.supervisor import Supervisor, worker_command

    with contextlib.ExitStack() as stack:
        if replicas is not None:
            from encodery.serve.cluster import ReplicaSettings, deploy

            deployment = stack.enter_context(deploy(opening, limits, ReplicaSettings(**replicas), console.print))
            arguments = [*arguments, "--place", deployment.to_argument()]
        Supervisor(worker_command(arguments), listener, workers, grace, console.print).run()


def _check(models: bool, index: Path | None, workers: int, engine: str, replicas: int, gpus: float) -> None:
    """Raise a `UserError` for a combination of options that cannot be served."""
    from encodery.base.errors import InputError, nearest
    from encodery.base.extras import require

    for name in ("fastapi", "uvicorn", "orjson", "prometheus_client"):
        require(name, "serve")
    if not models and index is None:
        raise InputError("There is nothing to serve: name a model or an --index.")
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: must be {' or '.join(ENGINES)}.{nearest(engine, ENGINES)}")
    if engine == "local" and (replicas > 1 or gpus):
        raise InputError("--replicas, --gpus: require --engine ray; on one machine use --workers.")
    if engine == "ray":
        from encodery.base.cluster import import_ray

        import_ray()
    processes, option = (workers, "--workers") if engine == "local" else (replicas, "--replicas")
    if index is not None and processes > 1:
        raise InputError(
            f"{option} {processes}: an index can be opened by one process only. Serve it with a single process."
        )


def _work(opening: dict[str, Any], limits: dict[str, Any], http: dict[str, Any], fd: int, place: str) -> None:
    """Run as a worker, or as the HTTP front end of the replicas at `place`."""
    from encodery.serve.engine import EngineSettings
    from encodery.serve.http import HttpSettings
    from encodery.serve.models import ServeSettings
    from encodery.serve.worker import run_frontend, run_worker

    if place:
        run_frontend(place, EngineSettings(**limits), HttpSettings(**http), fd)
    else:
        log = partial(print, file=sys.stderr, flush=True)
        run_worker(ServeSettings(**opening), EngineSettings(**limits), HttpSettings(**http), fd, log)


def hosts_of(host: str, allowed: Sequence[str], has_keys: bool) -> tuple[str, ...] | None:
    """Return the names that a Host header may have, `HttpSettings.hosts`.

    Args:
        host: the address to listen on.
        allowed: the names of --allow-host.
        has_keys: whether requests need a key, which pages of other sites do not have.
    """
    from encodery.base.hosts import is_loopback

    return (host, *allowed) if allowed or (is_loopback(host) and not has_keys) else None


def keys_of(file: Path | None) -> tuple[str, ...]:
    """Return the API keys of a file and of the environment; empty lines and lines that start with # are ignored."""
    from encodery.base import machine
    from encodery.base.errors import InputError

    lines = [] if file is None else [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if file is not None and not keys:
        raise InputError(f"{file}: contains no key.")
    environment = machine.api_keys()
    if environment is not None and not environment:
        raise InputError("ENCODERY_API_KEYS: contains no key. Unset it to serve without keys.")
    keys += environment or []
    if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise InputError("An API key must consist of printable ASCII characters without spaces.")
    return tuple(keys)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
