"""encodery search encode: documents encoded once, by as many processes as there are, to be indexed later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from encodery.search.sides import Side

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
) -> None:
    """Encode documents without indexing them: resumable, by several processes or machines at once.

    Give the same command as often as there are processes; each takes shards that are free. A process that is killed
    loses the thousand passages it was working on, and the same command goes on. `search index --encoded OUT` then
    makes an index without any model. Settings are passages.size=200, passages.overlap=20, text=body.
    """
    from rich.console import Console

    from encodery.search.encode import EncodeSettings
    from encodery.search.encode import encode as encode_documents

    sources, settings = take(arguments, EncodeSettings, "encode")
    console = Console(highlight=False)
    sides, paths = loaded(model, runtime)
    with console.status("Encoding …") as status:

        def told(number: int, passages: int) -> None:
            status.update(f"shard {number} of {shards}: {passages:,} passages")

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


def loaded(models: list[Path], runtime: str | None) -> tuple[list[Side], dict[str, Path]]:
    """Models as sides, and mode -> where each lies. Raises `InputError` for a runtime that would run none of them."""
    from encodery.base.errors import InputError
    from encodery.search.sides import Dense, load

    sides = [load(model, runtime) for model in models]
    if runtime is not None and not any(isinstance(side, Dense) for side in sides):
        given = ", ".join(side.mode for side in sides) or "none"
        raise InputError(f"--runtime {runtime}: runs models of one vector a text; given: {given}.")
    return sides, {side.mode: model for side, model in zip(sides, models, strict=True)}


def take(arguments: list[str], settings: type[S], where: str) -> tuple[list[str], S]:
    """Sources, and the settings among them, which are written path=value."""
    from encodery.base.settings import overrides, with_overrides

    sources = [a for a in arguments if "=" not in a or Path(a).exists()]
    return sources, with_overrides(settings, {}, overrides(a for a in arguments if a not in sources), where=where)
