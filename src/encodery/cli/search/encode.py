"""encodery search encode: encode documents once, in parallel processes, for building an index later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encodery.cli._options import OutFolder, Runtime
from encodery.cli.search._shared import split_arguments


def command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... [path=value ...]",
            help="Corpus folders, folders of documents, globs or files; then settings.",
        ),
    ],
    model: Annotated[
        list[Path],
        typer.Option("--model", "-m", help="The encoder; one of each kind may be given, as for `search index`."),
    ],
    out: OutFolder,
    shards: Annotated[int, typer.Option(help="The number of shards the documents are partitioned into.", min=1)] = 1,
    shard: Annotated[
        int | None,
        typer.Option(
            help="The shard to encode, counted from 1 [default: each shard in turn that no process works on]."
        ),
    ] = None,
    runtime: Runtime = None,
    engine: Annotated[
        str,
        typer.Option(help="local: this process, shard by shard; ray: the Ray cluster that RAY_ADDRESS names."),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="With --engine ray: the number of workers [default: one per CPU].", min=1)
    ] = None,
    gpus: Annotated[
        float, typer.Option(help="With --engine ray: the number of GPUs per worker; may be a fraction.", min=0)
    ] = 0.0,
) -> None:
    """Encode documents without indexing them. Several processes or machines may work on one folder.

    Run the same command in each process; each takes the next free shard. A process that is killed loses at most the
    thousand passages in progress, and the same command continues. `encodery search index --encoded OUT` then builds an
    index without a model. Settings are passages.size=200, passages.overlap=20 and text=body.

    --engine ray starts one worker per CPU, here or on a cluster; use several shards per worker.
    """
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.search.encode import EncodeSettings, encode_documents
    from encodery.search.load_retrievers import load_retrievers

    if engine not in ("local", "ray"):
        raise InputError(f"--engine {engine}: must be local or ray.")
    if engine == "local" and (workers or gpus):
        raise InputError("--workers, --gpus: require --engine ray; on one machine run the same command several times.")
    if engine == "ray" and shard is not None:
        raise InputError(f"--shard {shard}: requires --engine local; Ray takes all free shards.")
    sources, settings = split_arguments(arguments, EncodeSettings, "encode")
    console = screen()
    with console.status("Encoding …") as status:

        def advance(number: int, passages: int) -> None:
            status.update(f"shard {number} of {shards}: {passages:,} passages")

        if engine == "ray":
            from encodery.search.ray_encode import RayWorkers, encode_on_ray

            encoded = encode_on_ray(sources, out, model, settings, shards, runtime, RayWorkers(workers, gpus), advance)
        else:
            sides, paths = load_retrievers(model, runtime)
            encoded = encode_documents(sources, out, sides, settings, shards, shard, paths, advance)
    if encoded.artifact is None:
        line = f"{out}: {len(encoded.finished)} shards finished here, {len(encoded.open)} of {shards} open: "
        console.print(line + ", ".join(map(str, encoded.open)), soft_wrap=True)
        return
    metrics, size = encoded.artifact.manifest.metrics, sum(f["bytes"] for f in encoded.artifact.manifest.files.values())
    console.print(
        f"{out}: {metrics['documents']:,} documents in {metrics['passages']:,} passages, {size / 1e6:,.1f} MB, "
        f"{metrics['dropped_tokens']:,} of {metrics['tokens']:,} tokens dropped. "
        f"Index it: encodery search index --encoded {out} --out INDEX",
        soft_wrap=True,
    )
