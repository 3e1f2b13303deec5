"""encodery search encode: documents encoded once, by as many processes as there are, to be indexed later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

S = TypeVar("S")
Runtime = Annotated[
    str | None,
    typer.Option(
        help="What runs a model of one vector a text: one of `encodery show runtimes`, or the folder of an onnx or "
        "openvino export."
    ),
]


def encode(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE... [path=value ...]", help="Corpora, folders, globs, files; then settings."),
    ],
    model: Annotated[
        list[Path], typer.Option("--model", "-m", help="The encoder; one of each kind may be given, as for index.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    shards: Annotated[int, typer.Option(help="Into how many shards the documents are dealt.", min=1)] = 1,
    shard: Annotated[
        int | None, typer.Option(help="Work on this one, from 1 [default: one after another that nobody works on].")
    ] = None,
    runtime: Runtime = None,
    engine: Annotated[
        str, typer.Option(help="local: this process, shard by shard; ray: by Ray, on the cluster RAY_ADDRESS names.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="With --engine ray: so many at a time [default: one for each CPU].", min=1)
    ] = None,
    gpus: Annotated[float, typer.Option(help="With --engine ray: GPUs of each worker; a part will do.", min=0)] = 0.0,
) -> None:
    """Encode documents without indexing them: resumable, by several processes or machines at once.

    Give the same command as often as there are processes; each takes shards that are free. A process that is killed
    loses the thousand passages it was working on, and the same command goes on. `search index --encoded OUT` then
    makes an index without any model. Settings are passages.size=200, passages.overlap=20, text=body.

    --engine ray has as many processes at it as there are CPUs, here or on a cluster; give several shards for each.
    """
    from encodery.base.errors import InputError
    from encodery.cli._screen import screen
    from encodery.search.encode import EncodeSettings
    from encodery.search.encode import encode as encode_documents
    from encodery.search.sides import loaded

    if engine not in ("local", "ray"):
        raise InputError(f"--engine {engine}: is local or ray.")
    if engine == "local" and (workers or gpus):
        raise InputError("--workers, --gpus: are of --engine ray; locally give the same command several times.")
    if engine == "ray" and shard is not None:
        raise InputError(f"--shard {shard}: is of --engine local; Ray takes all shards that are free.")
    sources, settings = take(arguments, EncodeSettings, "encode")
    console = screen()
    with console.status("Encoding …") as status:

        def told(number: int, passages: int) -> None:
            status.update(f"shard {number} of {shards}: {passages:,} passages")

        if engine == "ray":
            from encodery.search.spread import spread

            made = spread(sources, out, model, settings, shards, runtime, workers, gpus, told)
        else:
            sides, paths = loaded(model, runtime)
            made = encode_documents(sources, out, sides, settings, shards, shard, paths, told)
    if made.artifact is None:
        said = f"{out}: {len(made.ended)} shards ended here, {len(made.open)} of {shards} open: "
        console.print(said + ", ".join(map(str, made.open)), soft_wrap=True)
        return
    figures, size = made.artifact.manifest.figures, sum(f["bytes"] for f in made.artifact.manifest.files.values())
    console.print(
        f"{out}: {figures['documents']:,} documents in {figures['passages']:,} passages, {size / 1e6:,.1f} MB, "
        f"{figures['dropped_tokens']:,} of {figures['tokens']:,} tokens dropped. "
        f"Index it: encodery search index --encoded {out} --out INDEX",
        soft_wrap=True,
    )


def take(arguments: list[str], settings: type[S], where: str) -> tuple[list[str], S]:
    """Sources, and the settings among them, which are written path=value."""
    from encodery.base.settings import overrides, with_overrides

    sources = [a for a in arguments if "=" not in a or Path(a).exists()]
    return sources, with_overrides(settings, {}, overrides(a for a in arguments if a not in sources), where=where)
