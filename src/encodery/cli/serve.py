"""encodery serve: models and an index behind HTTP."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer


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
    runtime: Annotated[str, typer.Option(help="What runs embedding models: torch, packed_int8, …")] = "torch",
    workers: Annotated[int, typer.Option(help="Processes, each with the models of its own.", min=1, max=256)] = 1,
    threads: Annotated[int | None, typer.Option(help="Of each worker's mathematics [default: all, shared].")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens computed at once [default: as measured on this machine].", min=1)
    ] = None,
    queue_tokens: Annotated[int, typer.Option(help="Tokens that may wait in a worker.", min=1)] = 1 << 20,
    queue_seconds: Annotated[float, typer.Option(help="That a request may wait; longer is refused.", min=0.1)] = 2.0,
    body_megabytes: Annotated[int, typer.Option(help="Of a request's body at most.", min=1)] = 16,
    drain_seconds: Annotated[int, typer.Option(help="For what was accepted, when stopped.", min=0)] = 30,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C: OpenAI, Cohere, Jina and TEI routes, and our own; a page shows them all.

    What a model can do is found in its folder: vectors, reranking, classes, spans, masks. A text that is too long is
    refused unless the request or --truncate says otherwise.
    """
    from encodery.base.errors import InputError
    from encodery.base.extras import require

    for module in ("fastapi", "uvicorn", "orjson", "prometheus_client"):
        require(module, "serve")
    if not models and index is None:
        raise InputError("There is nothing to serve: name a model, or an --index.")
    if index is not None and workers > 1:
        raise InputError(f"--workers {workers}: an index is open to one process only. Serve it by a worker of its own.")
    keys = keys_of(api_key_file)
    if fd is not None:
        from encodery.base import machine
        from encodery.serve.engine import EngineSettings
        from encodery.serve.http import HttpSettings
        from encodery.serve.models import Opening
        from encodery.serve.worker import work

        cores = threads or max(1, machine.threads() // workers)
        opening = Opening(tuple(models or ()), _text(index), _text(rerank), truncate, runtime, cores)
        engine = EngineSettings(
            batch_tokens=batch_tokens, queue_tokens=queue_tokens, queue_seconds=queue_seconds, cores=cores
        )
        http = HttpSettings(keys=keys, body_bytes=body_megabytes << 20, drain_seconds=drain_seconds)
        work(opening, engine, http, fd, partial(print, file=sys.stderr, flush=True))
        return
    from rich.console import Console

    from encodery.serve.supervisor import Supervisor, listen, worker_command

    arguments = [*(models or ()), "--runtime", runtime, "--workers", str(workers)]
    arguments += ["--queue-tokens", str(queue_tokens), "--queue-seconds", str(queue_seconds)]
    arguments += ["--body-megabytes", str(body_megabytes), "--drain-seconds", str(drain_seconds)]
    given = {"--index": index, "--rerank": rerank, "--api-key-file": api_key_file, "--truncate": truncate}
    for name, value in {**given, "--threads": threads, "--batch-tokens": batch_tokens}.items():
        arguments += [] if value is None else [name, str(value)]
    console = Console(highlight=False, stderr=True, soft_wrap=True)
    place = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    console.print(f"http://{shown}:{place.getsockname()[1]}/  (Ctrl-C ends; ready when /health/ready says so)")
    if not keys and host not in ("127.0.0.1", "::1", "localhost"):
        console.print(
            "Anyone who reaches this address may use it: no key is asked for (--api-key-file).", style="yellow"
        )
    Supervisor(worker_command(arguments), place, workers, drain_seconds, console.print).run()


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
